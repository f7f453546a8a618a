"""The connections of a group: two between every two members, one for arrays and one for news."""

import fcntl
import hmac
import secrets
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from qfleet.errors import FleetError

TOKEN_BYTES = 32
_HELLO = struct.Struct(f"!{TOKEN_BYTES}sIB")
_ARRAYS, _NEWS = 0, 1
_HELLO_SECONDS = 2.0
_ADDRESS_OF_INTERFACE = 0x8915
"""SIOCGIFADDR of Linux."""
Address = tuple[str, int]


@dataclass(frozen=True)
class Peer:
    """The connections to another member."""

    arrays: socket.socket
    news: socket.socket
    """Says that the group is broken, also while arrays are half sent."""


def new_token() -> bytes:
    """What members of one group know, and nobody else on the network."""
    return secrets.token_bytes(TOKEN_BYTES)


@final
class Listener:
    """Where the members of higher ranks connect to."""

    def __init__(self, host: str) -> None:
        try:
            self._socket = socket.create_server((host, 0), backlog=1024)
        except OSError as error:
            raise FleetError(
                f"a worker cannot listen on {host}: {error.strerror}; --interface names another network"
            ) from error

    @property
    def address(self) -> Address:
        """Host and port."""
        return self._socket.getsockname()

    def connect(
        self,
        rank: int,
        names: Sequence[str],
        addresses: Sequence[Address],
        token: bytes,
        timeout_seconds: float,
    ) -> dict[int, Peer]:
        """Connects with all other members, who do the same; FleetError naming one that does not come."""
        deadline = time.monotonic() + timeout_seconds
        found: dict[tuple[int, int], socket.socket] = {}
        for other, address in enumerate(addresses[:rank]):
            for kind in (_ARRAYS, _NEWS):
                found[other, kind] = _dial(names[other], address, deadline)
                found[other, kind].sendall(_HELLO.pack(token, rank, kind))
        expected = {(other, kind) for other in range(rank + 1, len(names)) for kind in (_ARRAYS, _NEWS)}
        while missing := sorted(expected - found.keys()):
            found |= self._accept(names[missing[0][0]], token, deadline)
        self._socket.close()
        for connection in found.values():
            _set_up(connection)
        return {
            other: Peer(found[other, _ARRAYS], found[other, _NEWS])
            for other in range(len(names))
            if other != rank
        }

    def _accept(self, missing: str, token: bytes, deadline: float) -> Mapping[tuple[int, int], socket.socket]:
        """One connection of a member; nothing if it was somebody else's."""
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            connection, _ = self._socket.accept()
        except TimeoutError:
            raise FleetError(f"{missing} has not connected to the others of its group in time") from None
        connection.settimeout(_HELLO_SECONDS)
        try:
            said, rank, kind = _HELLO.unpack(connection.recv(_HELLO.size, socket.MSG_WAITALL))
        except (OSError, struct.error):
            said, rank, kind = b"", 0, 0
        if hmac.compare_digest(said, token):
            return {(rank, kind): connection}
        connection.close()
        return {}


def _dial(name: str, address: Address, deadline: float) -> socket.socket:
    try:
        return socket.create_connection(address, max(0.001, deadline - time.monotonic()))
    except OSError as error:
        raise FleetError(
            f"{name} cannot be reached at {address[0]}:{address[1]} ({error}); --interface names the network that "
            "all nodes share"
        ) from error


def _set_up(connection: socket.socket) -> None:
    """No waiting, no collecting of small messages, and a machine that vanished is noticed within a quarter minute."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def address_of(interface: str) -> str:
    """The IPv4 address of this machine's network interface; FleetError naming those there are."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(
                probe.fileno(), _ADDRESS_OF_INTERFACE, struct.pack("256s", interface.encode()[:15])
            )
        except OSError:
            known = ", ".join(name for _, name in socket.if_nameindex())
            raise FleetError(
                f"--interface {interface}: {socket.gethostname()} has no such network with an address; it has {known}"
            ) from None
    return socket.inet_ntoa(found[20:24])
