"""The answer to a call, whatever the backend."""

from collections.abc import Callable
from concurrent.futures import Future as PythonFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, final

from qfleet.errors import FleetError


@final
class CallFuture:
    """The answer to a call of a service; `lateness` words the error for a deadline of so many seconds."""

    def __init__(self, inner: PythonFuture[Any], lateness: Callable[[float], str]) -> None:
        self._inner, self._lateness = inner, lateness

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value, or what it raised; FleetError if neither is there in time."""
        try:
            return self._inner.result(timeout_seconds)
        except FutureTimeoutError:
            if self._inner.done():
                raise
            raise FleetError(self._lateness(timeout_seconds)) from None


def one_line(error: BaseException) -> str:
    """An exception's type and message without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
