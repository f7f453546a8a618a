"""A service in a process of its own, as its parent sees it."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future as PythonFuture
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, final

import cloudpickle

from qfleet.backends.futures import LOOK_SECONDS, CallFuture, one_line, wait_for
from qfleet.backends.message_memory import pack
from qfleet.backends.process_channel import MOST_DESCRIPTORS, Channel
from qfleet.backends.process_child import COMMAND, MAKE, Call, Reply, ServiceStart
from qfleet.backends.process_state import how_it_ended, if_stopped, is_stopped
from qfleet.errors import FleetError
from qfleet.launcher import without_launcher

_STOPPED_SECONDS = 1.0
"""After Ctrl-Z all processes of a run go on together; one that does not for so long is lost."""
_END_SECONDS = 1.0
_MOST_SENT = 2
"""Calls that a process has: while it runs one, the next is there already, so that it waits for nobody in between."""
_MOST_BYTES_AHEAD = 2**14
"""Of a call that is sent while another runs: the connection has to hold it, as the process is not reading."""
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class _Queued(NamedTuple):
    """A call that waits for its turn."""

    answer: PythonFuture[Reply]
    call: Call
    """Without what was given to it."""
    given: list[CallFuture]

    def can_go_ahead(self) -> bool:
        """Whether it can be sent at once, and all of it, while the process does something else."""
        answers = [future.answer for future in self.given]
        if not all(answer.done() and answer.exception(0.0) is None for answer in answers):
            return False
        replies = [answer.result(0.0).handed_on() for answer in answers]
        num_bytes = sum(len(packed.data) for packed in (self.call.own, *(reply.packed for reply in replies)))
        return all(reply.is_result for reply in replies) and num_bytes <= _MOST_BYTES_AHEAD


@final
class ProcessHandle:
    """A process and the thread that carries calls to it, which it runs one at a time."""

    def __init__(self, name: str, start: ServiceStart, on_death: Callable[[str], None]) -> None:
        """`on_death` is told, once, how the process ended, if nobody asked it to."""
        self._name, self._on_death = name, on_death
        self._doing = "starting"
        self._death: str | None = None
        self._failure: Reply | None = None
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._lock, self._is_over = threading.Lock(), False
        self.started: PythonFuture[None] = PythonFuture()
        """Done when the process is there, or has ended."""
        self._begin = threading.Event()
        self._looks_stopped = 0
        connection, self._process = _spawn(start.descriptors())
        self._channel = Channel(connection, self._look)
        self._thread = threading.Thread(target=self._carry, args=(start,), name=f"{name}: calls", daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> CallFuture:
        """Queues a method call; FleetError if its arguments cannot be sent."""
        given = {place: one for place, one in enumerate(arguments) if isinstance(one, CallFuture)}
        own = tuple(one for one in arguments if not isinstance(one, CallFuture))
        if len(given) >= MOST_DESCRIPTORS:
            raise FleetError(f"{method} was given {len(given)} futures; a call takes {MOST_DESCRIPTORS - 1}")
        try:
            packed = pack(lambda keep: cloudpickle.dumps(own, protocol=5, buffer_callback=keep))
        except Exception as error:
            raise FleetError(
                f"the arguments of {method} cannot be sent to {self._name} ({one_line(error)})"
            ) from error
        answer: PythonFuture[Reply] = PythonFuture()
        self._put(_Queued(answer, Call(method, packed, tuple(given)), list(given.values())))
        return CallFuture(answer, lambda seconds: self.lateness(method, seconds), Reply.value)

    def lateness(self, method: str, seconds: float) -> str:
        """For errors: that a call is not done in time."""
        state = if_stopped(self._process.pid)
        return f"{self._who()} has not finished {method} within {seconds:g} s{state}"

    def begin(self) -> None:
        """Lets the process make its service."""
        self._begin.set()

    def ask_to_end(self) -> None:
        """The process ends after the calls made so far."""
        with self._lock:
            self._is_over = True
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
        # A disk or a driver may keep it from ending: that is not for us to wait for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._channel.close()

    def _put(self, queued: _Queued) -> None:
        with self._lock:
            if self._is_over:
                raise FleetError(f"{self._who()} has been ended")
            self._queue.put(queued)

    def _carry(self, start: ServiceStart) -> None:
        with contextlib.suppress(FleetError):  # every call will say it
            self._ask(start)
        self.started.set_result(None)
        self._begin.wait()
        self._make()
        sent: deque[_Queued] = deque()
        while (queued := self._next(sent)) is not None:
            while sent and (len(sent) == _MOST_SENT or not queued.can_go_ahead()):
                self._hear(sent)
            self._pass_on(queued, sent)
            del queued  # with the memory of its arguments
        while sent:
            self._hear(sent)
        self._quit()

    def _make(self) -> None:
        self._doing = "making the service"
        with contextlib.suppress(FleetError):  # every call will say it
            made = self._ask(MAKE)
            self._failure = None if made.is_result else made
        self._doing = "waiting for a call"

    def _next(self, sent: deque[_Queued]) -> _Queued | None:
        """The next call; until there is one, hears of those that were sent, and looks whether the process is there."""
        while True:
            while sent and self._queue.empty():
                self._hear(sent)
            try:
                return self._queue.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if self._death is None and self._process.poll() is not None:
                    self._note_death()

    def _pass_on(self, queued: _Queued, sent: deque[_Queued]) -> None:
        """Sends a call; one that is in vain is answered at once."""
        try:
            failed, given = self._given(queued)
            if failed is not None:
                queued.answer.set_result(failed)
                return
            if not sent:
                self._doing = f"running {queued.call.method}"
            self._send(replace(queued.call, given=given))
        except BaseException as error:  # told to whoever waits for the result
            queued.answer.set_exception(error)
        else:
            sent.append(queued)

    def _given(self, queued: _Queued) -> tuple[Reply | None, tuple[Reply, ...]]:
        """Why a call is not to be sent, if it is not, and what it was given; FleetError if nobody is there."""
        if self._death is not None:
            raise FleetError(self._death)
        if self._failure is not None:
            return self._failure, ()
        replies = (wait_for(future.answer, self._check_alive) for future in queued.given)
        given = tuple(reply.handed_on() for reply in replies)
        return next((reply for reply in given if not reply.is_result), None), given

    def _hear(self, sent: deque[_Queued]) -> None:
        """Waits for what the first of the calls comes to that were sent."""
        queued = sent.popleft()
        try:
            queued.answer.set_result(self._receive())
        except BaseException as error:  # told to whoever waits for the result
            queued.answer.set_exception(error)
        self._doing = f"running {sent[0].call.method}" if sent else "waiting for a call"

    def _ask(self, message: ServiceStart | Call) -> Reply:
        """Sends a message and gives what comes back; FleetError if the process ends before."""
        self._send(message)
        return self._receive()

    def _send(self, message: ServiceStart | Call) -> None:
        self._looks_stopped = 0
        try:
            self._channel.send(message)
        except (EOFError, OSError):
            raise FleetError(self._note_death()) from None

    def _receive(self) -> Reply:
        self._looks_stopped = 0
        try:
            reply: Reply = self._channel.receive()
        except (EOFError, OSError):
            raise FleetError(self._note_death()) from None
        return replace(reply, who=self._who())

    def _look(self) -> None:
        """At the process, while nothing is heard of it."""
        if self._process.poll() is not None and not self._channel.has_come():
            raise EOFError
        self._looks_stopped = self._looks_stopped + 1 if is_stopped(self._process.pid) else 0
        if self._looks_stopped * LOOK_SECONDS >= _STOPPED_SECONDS:
            self._note_stop()

    def _check_alive(self) -> None:
        """The same, while it waits for what another service is to give."""
        try:
            self._look()
        except EOFError:
            raise FleetError(self._note_death()) from None

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
                self._channel.send(None)
                self._process.wait(2 * _END_SECONDS)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()

    def _who(self) -> str:
        return f"{self._name} (process {self._process.pid})"


def _spawn(descriptors: list[int]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A new interpreter, and the connection to it."""
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
    return ours, process
