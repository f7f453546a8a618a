"""The answer to a call, whatever the backend."""

from collections.abc import Callable
from concurrent.futures import Future as PythonFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait
from typing import Any, final

from qfleet.errors import FleetError
from qfleet.fleet import Answer

LOOK_SECONDS = 0.25
"""How often somebody who waits looks whether there is still something to wait for."""


def told(returned: Any) -> Any:
    """What a method's caller gets."""
    return returned.told if isinstance(returned, Answer) else returned


def given(returned: Any) -> Any:
    """What other services get whose calls have its future among their arguments."""
    return returned.given if isinstance(returned, Answer) else returned


@final
class CallFuture:
    """The answer to a call of a service; `lateness` words the error for a deadline of so many seconds."""

    def __init__(
        self,
        answer: PythonFuture[Any],
        lateness: Callable[[float], str],
        read: Callable[[Any], Any] = told,
    ) -> None:
        """`read` gives the method's return value, or raises what it raised, from what `answer` brings."""
        self.answer, self._lateness, self._read = answer, lateness, read

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value, or what it raised; FleetError if neither is there in time."""
        try:
            answer = self.answer.result(timeout_seconds)
        except FutureTimeoutError:
            if self.answer.done():
                raise
            raise FleetError(self._lateness(timeout_seconds)) from None
        return self._read(answer)

    def when_done(self, callback: Callable[[], None]) -> None:
        """See `qfleet.fleet.Future.when_done`."""
        self.answer.add_done_callback(lambda _: callback())


def wait_for(answer: PythonFuture[Any], look: Callable[[], None]) -> Any:
    """What another call came to, for the call that it was given to; `look` raises once waiting is in vain."""
    while not wait([answer], LOOK_SECONDS).done:
        look()
    return answer.result()


def one_line(error: BaseException) -> str:
    """An exception's type and message without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
