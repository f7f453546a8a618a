"""SIGINT and SIGTERM: the first asks for an orderly end, the second one ends the process at once.

Under an MPI launcher SIGUSR1 asks for it too: Open MPI's hands that one on, whereas after a SIGINT or SIGTERM to
itself it kills all ranks within half a second.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import final

from qfleet.launcher import is_launched

_ORDERLY_SECONDS = 4
_AGAIN_SECONDS = 0.05


def _asking() -> tuple[signal.Signals, ...]:
    """Signals that ask for an end."""
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if is_launched() else ()))


class Interrupted(BaseException):
    """An orderly end did not come about in time, or there was nothing yet to end in order."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@final
class Interruption:
    """While entered, remembers a signal instead of dying of it.

    Before `begin_orderly` is called there is nothing to save, and the signal raises Interrupted at once; so
    does an orderly end that takes longer than four seconds to begin. Outside the main thread, where Python
    allows no handlers, signals are left alone.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        """The signal that came, 0 before."""
        self._orderly = False
        self._previous: dict[int, object] = {}
        self._previous_hook = sys.unraisablehook

    def __bool__(self) -> bool:
        """Whether an end was asked for."""
        return self.signal_number != 0

    def begin_orderly(self) -> None:
        """From now on, somebody looks at this object often and ends in order."""
        self._orderly = True

    def noticed(self) -> None:
        """The orderly end has begun."""
        if self._previous:
            signal.alarm(0)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in _asking():
                self._previous[number] = signal.signal(number, self._handle)
            self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._too_late)
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.noticed()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if self._previous:
            sys.unraisablehook = self._previous_hook
        self._previous.clear()

    def _swallowed(self, told: "sys.UnraisableHookArgs") -> None:
        """What is raised where C calls Python goes nowhere: an interruption is raised again, a moment later."""
        if isinstance(told.exc_value, Interrupted):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        else:
            self._previous_hook(told)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            os._exit(128 + number)
        self.signal_number = number
        if not self._orderly:
            raise Interrupted(number)
        signal.alarm(_ORDERLY_SECONDS)

    def _too_late(self, number: int, frame: FrameType | None) -> None:
        raise Interrupted(self.signal_number)
