"""What a person sees while a run trains: a live line on standard error, or plain lines now and then."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from qfleet.runs.formatting import short_duration, short_number

if TYPE_CHECKING:
    from rich.live import Live

_LIVE_INTERVAL_SECONDS = 0.1
_PLAIN_INTERVAL_SECONDS = 5.0
_BAR_WIDTH, _LEAST_BAR_WIDTH, _NUMBERS_WIDTH = 24, 6, 86


class Progress:
    """Shows a run of `total_steps` steps (None: no fixed number) while it is entered; nothing if `quiet`.

    `first_step` and `first_update` are where a resumed run goes on: rates count from there.
    Never writes to standard output.
    """

    def __init__(
        self,
        total_steps: int | None,
        first_step: int = 0,
        first_update: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._total_steps = total_steps
        self._first_step = first_step
        self._first_update = first_update
        self._quiet = quiet
        self._live: Live | None = None
        self._start_seconds = self._next_seconds = time.monotonic()
        self._interval_seconds = _LIVE_INTERVAL_SECONDS if self._stream.isatty() else _PLAIN_INTERVAL_SECONDS
        self._last: tuple[int, int, float | None, float | None] | None = None

    def __enter__(self) -> "Progress":
        self._start_seconds = self._next_seconds = time.monotonic()
        if not self._quiet and self._stream.isatty():
            # rich is imported late: a quiet run, or one in a script, does without it.
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._last:
            self._show(*self._last)
        if self._live:
            self._live.stop()

    def update(
        self,
        steps: int,
        updates: int = 0,
        mean_return: float | None = None,
        exploration_rate: float | None = None,
    ) -> None:
        """Tells where the run is, counted from its very start. Cheap to call often."""
        if self._quiet:
            return
        self._last = (steps, updates, mean_return, exploration_rate)
        now_seconds = time.monotonic()
        if now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + self._interval_seconds
            self._show(*self._last)
            self._last = None

    def message(self, line: str) -> None:
        """Prints `line` above the live line (an evaluation, a warning); nothing if quiet."""
        if self._live:
            self._live.console.print(line, markup=False, highlight=False)
        elif not self._quiet:
            print(line, file=self._stream, flush=True)

    def warning(self, line: str) -> None:
        """Prints `line` as `message` does, but even if quiet."""
        if self._quiet:
            print(line, file=self._stream, flush=True)
        else:
            self.message(line)

    def _show(
        self, steps: int, updates: int, mean_return: float | None, exploration_rate: float | None
    ) -> None:
        seconds = max(time.monotonic() - self._start_seconds, 1e-9)
        text = self._line(steps, updates, mean_return, exploration_rate, seconds)
        if self._live:
            from rich.text import Text

            self._live.update(
                Text(
                    f"{self._bar(steps, self._live.console.width)}{text}",
                    no_wrap=True,
                    overflow="ellipsis",
                ),
                refresh=True,
            )
        else:
            print(text, file=self._stream, flush=True)

    def _bar(self, steps: int, num_columns: int) -> str:
        """As long as a terminal has room for beside the numbers, which matter more."""
        width = min(_BAR_WIDTH, num_columns - _NUMBERS_WIDTH)
        if not self._total_steps or width < _LEAST_BAR_WIDTH:
            return ""
        filled = round(width * min(1.0, steps / self._total_steps))
        return f"{'━' * filled}{'╌' * (width - filled)} "

    def _line(
        self,
        steps: int,
        updates: int,
        mean_return: float | None,
        exploration_rate: float | None,
        seconds: float,
    ) -> str:
        """Rates are of this session: what a resumed run did before took time that is not counted here."""
        steps_per_second = (steps - self._first_step) / seconds
        total = f"/{short_number(self._total_steps)}" if self._total_steps else ""
        parts = [f"{short_number(steps)}{total} steps", f"{short_number(steps_per_second)} steps/s"]
        if updates:
            parts.append(f"{short_number((updates - self._first_update) / seconds)} updates/s")
        if mean_return is not None:
            parts.append(f"return {mean_return:.4g}")
        if exploration_rate is not None:
            parts.append(f"ε {exploration_rate:.2f}")
        parts.append(short_duration(seconds))
        if self._total_steps and steps_per_second > 0:
            left_seconds = max(0, self._total_steps - steps) / steps_per_second
            parts.append(f"{short_duration(left_seconds)} left")
        return "  ".join(parts)
