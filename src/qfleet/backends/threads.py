"""Services as threads of this process."""

import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as PythonFuture
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qfleet.backends.boards import ThreadBoard
from qfleet.backends.futures import CallFuture, given, one_line, wait_for
from qfleet.backends.thread_group import Meeting, ThreadGroup
from qfleet.errors import FleetError
from qfleet.fleet import Group

_CLOSE_SECONDS = 2.0
_BROKEN_SECONDS = 0.2
"""How long threads that waited for a group now broken get to end."""


@final
class ThreadHandle:
    """A service in a thread of its own."""

    def __init__(self, name: str, make_service: Callable[[], Any], meeting: Meeting | None = None) -> None:
        self._name, self._meeting = name, meeting
        self._calls: queue.SimpleQueue[tuple[PythonFuture[Any], Callable[[Any], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._lock, self._is_over = threading.Lock(), False
        self._is_given_up = False
        """Whether its fleet has been closed, and does not wait for it any more."""
        self._thread = threading.Thread(target=self._serve, args=(make_service,), name=name, daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> CallFuture:
        """Queues a method call."""
        answer: PythonFuture[Any] = PythonFuture()
        with self._lock:
            if self._is_over:
                raise FleetError(f"{self._name} has been ended")
            self._calls.put((answer, lambda service: getattr(service, method)(*self._values(arguments))))
        return CallFuture(
            answer,
            lambda seconds: (
                f"{self._name} has not finished {method} within {seconds:g} s. A hung thread cannot be ended, only "
                "left behind; a slow environment needs a longer --stall-timeout-seconds"
            ),
        )

    def ask_to_end(self) -> None:
        """The thread ends after the calls made so far."""
        with self._lock:
            self._is_over = True
            self._calls.put(None)

    def is_running(self, timeout_seconds: float) -> bool:
        """Whether the thread still runs when so much time has passed."""
        self._thread.join(timeout_seconds)
        return self._thread.is_alive()

    def give_up(self) -> None:
        """Frees a thread that waits for its group, or for another's answer."""
        self._is_given_up = True
        if self._meeting is not None:
            self._meeting.break_up(f"the fleet of {self._name} has been closed")

    def _values(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments, with what other calls came to in the place of their futures."""
        return [
            given(wait_for(one.answer, self._check_open)) if isinstance(one, CallFuture) else one
            for one in arguments
        ]

    def _check_open(self) -> None:
        if self._is_given_up:
            raise FleetError(f"the fleet of {self._name} has been closed")

    def _serve(self, make_service: Callable[[], Any]) -> None:
        service: Any = None
        failure: BaseException | None = None
        try:
            service = make_service()
        except BaseException as error:  # told to whoever calls
            failure = error
            self._tell_group(error)
        while (item := self._calls.get()) is not None:
            answer, run = item
            try:
                if failure is not None:
                    raise failure
                answer.set_result(self._run(run, service))
            except BaseException as error:  # told to whoever waits for the result
                _name(error, self._name)
                answer.set_exception(error)
            del item, answer, run  # with the arguments

    def _run(self, run: Callable[[Any], Any], service: Any) -> Any:
        try:
            return run(service)
        except BaseException as error:
            self._tell_group(error)
            raise

    def _tell_group(self, error: BaseException) -> None:
        """Nobody is to wait for a member that has left its work in the middle."""
        if self._meeting is not None:
            self._meeting.break_up(f"{self._name} failed with {one_line(error)}")


@final
class ThreadFleet:
    """Starts services as threads."""

    shares_memory = True
    recovery = None

    def __init__(self) -> None:
        self._handles: list[ThreadHandle] = []

    def start(self, name: str, make_service: Callable[[], Any]) -> ThreadHandle:
        """Makes a service in a new thread."""
        handle = ThreadHandle(name, make_service)
        self._handles.append(handle)
        return handle

    def start_group(
        self, names: Sequence[str], make_services: Sequence[Callable[[Group], Any]], timeout_seconds: float
    ) -> list[ThreadHandle]:
        """Makes services in new threads, as one group; what they hold is shared, not copied."""
        meeting = Meeting(names, timeout_seconds)
        handles = [
            ThreadHandle(name, functools.partial(make, ThreadGroup(meeting, rank)), meeting)
            for rank, (name, make) in enumerate(zip(names, make_services, strict=True))
        ]
        self._handles += handles
        return handles

    def shared_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeroed memory, which all threads see anyway; FleetError where there is not enough."""
        try:
            return np.zeros(shape, dtype)
        except MemoryError as error:
            raise FleetError(f"a shared array does not fit: {error}") from None

    def board(self, num_bytes: int) -> ThreadBoard:
        """A board that all threads see."""
        return ThreadBoard(num_bytes)

    def close(self) -> None:
        """Lets the calls made so far finish, within a short time, and ends all threads."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.ask_to_end()
        deadline = time.monotonic() + _CLOSE_SECONDS
        hung = [handle for handle in handles if handle.is_running(max(0.0, deadline - time.monotonic()))]
        for handle in hung:
            handle.give_up()
        deadline = time.monotonic() + _BROKEN_SECONDS
        for handle in hung:
            handle.is_running(max(0.0, deadline - time.monotonic()))


def _name(error: BaseException, name: str) -> None:
    """Notes, once, in whom it was raised: calls that were given its answer fail with the same error."""
    if not getattr(error, "__notes__", ()):
        error.add_note(f"In {name}")
