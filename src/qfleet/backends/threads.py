"""Services as threads of this process."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future as PythonFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, final

from qfleet.errors import FleetError

_CLOSE_SECONDS = 2.0


@final
class ThreadFuture:
    """The answer to a call of a thread's service."""

    def __init__(self, name: str, method: str, inner: PythonFuture[Any]) -> None:
        self._name, self._method, self._inner = name, method, inner

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value, or what it raised."""
        try:
            return self._inner.result(timeout_seconds)
        except FutureTimeoutError:
            if self._inner.done():
                raise
            raise FleetError(
                f"{self._name} has not finished {self._method} within {timeout_seconds:g} s. A hung thread cannot "
                "be ended, only left behind; a slow environment needs a longer --stall-timeout-seconds"
            ) from None


@final
class ThreadHandle:
    """A service in a thread of its own."""

    def __init__(self, name: str, make_service: Callable[[], Any]) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[PythonFuture[Any], Callable[[Any], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._serve, args=(make_service,), name=name, daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> ThreadFuture:
        """Queues a method call."""
        inner: PythonFuture[Any] = PythonFuture()
        self._calls.put((inner, lambda service: getattr(service, method)(*arguments)))
        return ThreadFuture(self._name, method, inner)

    def close(self) -> None:
        """Lets the calls made so far finish, within a short time, and ends the thread."""
        self._calls.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _serve(self, make_service: Callable[[], Any]) -> None:
        service: Any = None
        failure: BaseException | None = None
        try:
            service = make_service()
        except BaseException as error:  # told to whoever calls
            failure = error
        while (item := self._calls.get()) is not None:
            inner, run = item
            try:
                if failure is not None:
                    raise failure
                inner.set_result(run(service))
            except BaseException as error:  # told to whoever waits for the result
                inner.set_exception(error)


@final
class ThreadFleet:
    """Starts services as threads."""

    def __init__(self) -> None:
        self._handles: list[ThreadHandle] = []

    def start(self, name: str, make_service: Callable[[], Any]) -> ThreadHandle:
        """Makes a service in a new thread."""
        handle = ThreadHandle(name, make_service)
        self._handles.append(handle)
        return handle

    def close(self) -> None:
        """Ends all threads."""
        while self._handles:
            self._handles.pop().close()
