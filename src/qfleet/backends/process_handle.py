"""A service in a process of its own, as its parent sees it."""

import contextlib
import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future as PythonFuture
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, final

import cloudpickle

from qfleet.backends.futures import CallFuture, one_line
from qfleet.backends.process_child import COMMAND, MAKE, ServiceStart
from qfleet.backends.process_state import how_it_ended, if_stopped, is_stopped
from qfleet.backends.replies import load_reply
from qfleet.errors import FleetError
from qfleet.launcher import without_launcher

_LOOK_SECONDS = 0.25
"""How often a process is looked at while nothing is heard of it."""
_STOPPED_SECONDS = 1.0
"""After Ctrl-Z all processes of a run go on together; one that does not for so long is lost."""
_END_SECONDS = 1.0
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


@final
class ProcessHandle:
    """A process and the thread that carries calls to it, one at a time."""

    def __init__(self, name: str, start: ServiceStart, on_death: Callable[[str], None]) -> None:
        """`on_death` is told, once, how the process ended, if nobody asked it to."""
        self._name, self._on_death = name, on_death
        self._doing = "starting"
        self._death: str | None = None
        self._failure: BaseException | None = None
        self._queue: queue.SimpleQueue[tuple[PythonFuture[Any], str, bytes] | None] = queue.SimpleQueue()
        self.started: PythonFuture[None] = PythonFuture()
        """Done when the process is there, or has ended."""
        self._begin = threading.Event()
        self._pipe, self._process = _spawn(start.descriptors())
        self._thread = threading.Thread(target=self._carry, args=(start,), name=f"{name}: calls", daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> CallFuture:
        """Queues a method call; FleetError if its arguments cannot be sent."""
        try:
            data = cloudpickle.dumps(arguments, protocol=5)
        except Exception as error:
            raise FleetError(
                f"the arguments of {method} cannot be sent to {self._name} ({one_line(error)})"
            ) from error
        inner: PythonFuture[Any] = PythonFuture()
        self._queue.put((inner, method, data))
        return CallFuture(inner, lambda seconds: self.lateness(method, seconds))

    def lateness(self, method: str, seconds: float) -> str:
        """For errors: that a call is not done in time."""
        state = if_stopped(self._process.pid)
        return f"{self._who()} has not finished {method} within {seconds:g} s{state}"

    def begin(self) -> None:
        """Lets the process make its service."""
        self._begin.set()

    def ask_to_end(self) -> None:
        """The process ends after the calls made so far."""
        self._queue.put(None)
        self._begin.set()

    def kill(self) -> None:
        """Ends the process whatever it does; `end` is to follow."""
        self._process.kill()
        self.ask_to_end()

    def end(self, timeout_seconds: float) -> None:
        """Waits a moment for the end that was asked for, then makes it."""
        self._thread.join(timeout_seconds)
        if self._process.poll() is None:
            self._process.kill()
        self._thread.join(_END_SECONDS)
        self._process.wait()
        self._pipe.close()

    def _carry(self, start: ServiceStart) -> None:
        with contextlib.suppress(FleetError):  # every call will say it
            self._ask(pickle.dumps(start))
        self.started.set_result(None)
        self._begin.wait()
        self._make()
        while (item := self._next()) is not None:
            inner, method, data = item
            try:
                inner.set_result(self._run(method, data))
            except BaseException as error:  # told to whoever waits for the result
                inner.set_exception(error)
        self._quit()

    def _make(self) -> None:
        self._doing = "making the service"
        try:
            self._ask(pickle.dumps((MAKE, b"")))
        except BaseException as error:  # told to whoever calls
            self._failure = error
        self._doing = "waiting for a call"

    def _run(self, method: str, data: bytes) -> Any:
        if self._death is not None:
            raise FleetError(self._death)
        if self._failure is not None:
            raise self._failure
        self._doing = f"running {method}"
        try:
            return self._ask(pickle.dumps((method, data)))
        finally:
            self._doing = "waiting for a call"

    def _ask(self, message: bytes) -> Any:
        """Sends a message and gives what comes back; FleetError if the process ends before."""
        try:
            self._pipe.send_bytes(message)
            looks_stopped = 0
            while not self._pipe.poll(_LOOK_SECONDS):
                if self._process.poll() is not None and not self._pipe.poll(0):
                    raise EOFError
                looks_stopped = looks_stopped + 1 if is_stopped(self._process.pid) else 0
                if looks_stopped * _LOOK_SECONDS >= _STOPPED_SECONDS:
                    self._note_stop()
            reply = self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise FleetError(self._note_death()) from None
        return load_reply(reply, self._who())

    def _next(self) -> tuple[PythonFuture[Any], str, bytes] | None:
        """The next call; meanwhile looks whether the process is still there."""
        while True:
            try:
                return self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._death is None and self._process.poll() is not None:
                    self._note_death()

    def _note_death(self) -> str:
        if self._death is not None:
            return self._death
        try:
            end = how_it_ended(self._process.wait(_END_SECONDS))
        except subprocess.TimeoutExpired:
            end = "closed its pipe"
            self._process.kill()
        self._death = f"{self._who()} {end} while {self._doing}"
        self._on_death(self._death)
        return self._death

    def _note_stop(self) -> NoReturn:
        """Nobody waits for a process that was told to stand still: it ends."""
        self._death = f"{self._who()} was stopped while {self._doing}, and did not go on"
        self._process.kill()
        self._on_death(self._death)
        raise FleetError(self._death)

    def _quit(self) -> None:
        if self._death is None:
            try:
                self._pipe.send_bytes(pickle.dumps(None))
                self._process.wait(2 * _END_SECONDS)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()

    def _who(self) -> str:
        return f"{self._name} (process {self._process.pid})"


def _spawn(descriptors: list[int]) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A new interpreter, and the pipe to it."""
    ours, theirs = socket.socketpair()
    search_path = json.dumps([str(Path(path).absolute()) for path in sys.path])
    # Ctrl-C reaches the whole terminal; the parent decides what it means, also while the child starts.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, search_path, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *descriptors],
                env={**without_launcher(os.environ), **_ONE_THREAD},
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return Connection(ours.detach()), process
