"""One on each node: keeps values, watches the workers' processes and ends them, whatever these do.

It answers on a port of its own, since Ray takes long to notice that a node is gone. It imports nothing but the
standard library, and ends with the driver's connection.
"""

import hmac
import os
import select
import signal
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from qfleet.backends.kept_values import (
    ABSENT,
    CONTROL,
    FETCH,
    HELLO,
    PROGRESS_SECONDS,
    SIZE,
    STORE,
    STORED,
    receive_all,
    send_all,
)
from qfleet.backends.network_mesh import Address, address_of
from qfleet.errors import FleetError

BEAT_SECONDS = 0.2
RECORD = struct.Struct("!cQ")
"""From the driver: WATCH or KILL a process, FORGET a key. To it: ALIVE, and processes STOPPED or GONE."""
WATCH, KILL, FORGET = b"W", b"K", b"F"
ALIVE, STOPPED, GONE = b"A", b"T", b"X"
_STOPPED_SECONDS = 0.8
"""A shorter stop is somebody's look at the process."""


@final
class Watched:
    """A process of this node; a later one of the same number is another."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id
        self._born = _state_of(process_id)[1]
        self._stopped_since: float | None = None

    def state(self) -> bytes:
        """ALIVE, STOPPED or GONE."""
        letter, born = _state_of(self.process_id)
        if not letter or letter in "ZX" or born != self._born:
            return GONE
        now = time.monotonic()
        self._stopped_since = None if letter != "T" else self._stopped_since or now
        is_stopped = self._stopped_since is not None and now - self._stopped_since >= _STOPPED_SECONDS
        return STOPPED if is_stopped else ALIVE

    def kill(self) -> None:
        """Ends it at once."""
        if self.state() != GONE:
            with suppress(ProcessLookupError):
                os.kill(self.process_id, signal.SIGKILL)


def _state_of(process_id: int) -> tuple[str, str]:
    """Linux's letter for it, and when it was started; empty if there is none."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


@final
class Keeper:
    """The actor."""

    def __init__(self, token: bytes) -> None:
        self._token, self._raylet = token, os.getppid()
        self._values: dict[int, bytearray] = {}

    def open(self, host: str, interface: str) -> Address | str:
        """Begins to answer on the interface, on the host, or on the node's own address; host and port, or why not."""
        import ray

        keeper = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    keeper._serve(self.request)

        try:
            own = address_of(interface) if interface else host or ray.util.get_node_ip_address()
            server = _Server((own, 0), Handler)
        except (FleetError, OSError) as error:
            return str(error)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found: Any = server.server_address
        return found

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PROGRESS_SECONDS)
        token, wanted, key, size = HELLO.unpack(receive_all(connection, HELLO.size))
        if not hmac.compare_digest(token, self._token):
            return
        if wanted == STORE:
            self._values[key] = receive_all(connection, size)
            connection.sendall(STORED)
        elif wanted == FETCH:
            value = self._values.get(key)
            connection.sendall(SIZE.pack(ABSENT if value is None else len(value)))
            send_all(connection, value or bytearray())
        elif wanted == CONTROL:
            try:
                self._obey(connection)
            finally:
                os._exit(0)  # the driver is gone, and the run with it, or the node is

    def _obey(self, connection: socket.socket) -> None:
        """Does what the driver asks for, and tells it several times a second how its processes are."""
        watched: dict[int, Watched] = {}
        while os.getppid() == self._raylet:  # without it, this node takes no more workers
            for kind, number in self._asked(connection):
                if kind == WATCH:
                    watched[number] = Watched(number)
                elif kind == FORGET:
                    self._values.pop(number, None)
                elif number in watched:
                    watched[number].kill()
            states = [(process.state(), number) for number, process in watched.items()]
            news = [RECORD.pack(ALIVE, 0), *(RECORD.pack(*pair) for pair in states if pair[0] != ALIVE)]
            connection.sendall(b"".join(news))
            watched = {number: watched[number] for state, number in states if state != GONE}

    @staticmethod
    def _asked(connection: socket.socket) -> Iterator[tuple[bytes, int]]:
        if select.select([connection], [], [], BEAT_SECONDS)[0]:
            yield RECORD.unpack(receive_all(connection, RECORD.size))
            while select.select([connection], [], [], 0)[0]:
                yield RECORD.unpack(receive_all(connection, RECORD.size))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024
