"""What a person sees while a run trains: a live line on standard error, or plain lines now and then."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from qfleet.fleet_view import FleetView
from qfleet.runs.fleet_lines import fleet_lines
from qfleet.runs.formatting import short_duration, short_number

if TYPE_CHECKING:
    from rich.live import Live

_LIVE_INTERVAL_SECONDS = 0.1
_PLAIN_INTERVAL_SECONDS = 5.0
_BAR_WIDTH, _LEAST_BAR_WIDTH = 24, 6
_LEFT_OUT_FIRST = ("updates", "seconds", "exploration", "error", "left")
"""What a narrow terminal does without, in this order."""


@dataclass(frozen=True)
class _Shown:
    """Where the run is, counted from its very start."""

    steps: int
    updates: int
    mean_return: float | None
    exploration_rate: float | None
    error: float | None
    fleet: FleetView | None


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
        self._last: _Shown | None = None

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
            self._show(self._last)
        if self._live:
            self._live.stop()

    def update(
        self,
        steps: int,
        updates: int = 0,
        mean_return: float | None = None,
        exploration_rate: float | None = None,
        error: float | None = None,
        fleet: FleetView | None = None,
    ) -> None:
        """Tells where the run is, counted from its very start; a table's error, and how the roles of a topology do.

        Cheap to call often.
        """
        if self._quiet:
            return
        self._last = _Shown(steps, updates, mean_return, exploration_rate, error, fleet)
        now_seconds = time.monotonic()
        if now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + self._interval_seconds
            self._show(self._last)
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

    def _show(self, shown: _Shown) -> None:
        parts = self._parts(shown, max(time.monotonic() - self._start_seconds, 1e-9))
        if self._live is None:
            print("  ".join(parts.values()), file=self._stream, flush=True)
            return
        from rich.text import Text

        width = self._live.console.width
        text = _fitted(parts, width)
        line = f"{self._bar(shown.steps, width - len(text) - 1)}{text}"
        lines = [line, *(fleet_lines(shown.fleet, width) if shown.fleet else [])]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def _bar(self, steps: int, num_columns: int) -> str:
        """As long as there is room for beside the numbers, which matter more."""
        width = min(_BAR_WIDTH, num_columns)
        if not self._total_steps or width < _LEAST_BAR_WIDTH:
            return ""
        filled = round(width * min(1.0, steps / self._total_steps))
        return f"{'━' * filled}{'╌' * (width - filled)} "

    def _parts(self, shown: _Shown, seconds: float) -> dict[str, str]:
        """Rates are of this session: what a resumed run did before took time that is not counted here."""
        steps_per_second = (shown.steps - self._first_step) / seconds
        total = f"/{short_number(self._total_steps)}" if self._total_steps else ""
        parts = {
            "steps": f"{short_number(shown.steps)}{total} steps",
            "rate": f"{short_number(steps_per_second)} steps/s",
        }
        # A table is updated at every step: its second rate would only repeat the first.
        if shown.updates and shown.updates != shown.steps:
            rate = (shown.updates - self._first_update) / seconds
            parts["updates"] = f"{short_number(rate)} updates/s"
        if shown.mean_return is not None:
            parts["return"] = f"return {shown.mean_return:.4g}"
        if shown.error is not None:
            parts["error"] = f"error {shown.error:.2g}"
        if shown.exploration_rate is not None:
            parts["exploration"] = f"ε {shown.exploration_rate:.2f}"
        parts["seconds"] = short_duration(seconds)
        if self._total_steps and steps_per_second > 0:
            left_seconds = max(0, self._total_steps - shown.steps) / steps_per_second
            parts["left"] = f"{short_duration(left_seconds)} left"
        if shown.fleet and self._live is None:
            busiest = shown.fleet.bottleneck
            parts["bottleneck"] = f"bottleneck {busiest.title} ({busiest.busy:.0%} busy)"
        return parts


def _fitted(parts: dict[str, str], num_columns: int) -> str:
    """One line, without what there is no room for."""
    left = dict(parts)
    for name in _LEFT_OUT_FIRST:
        if len("  ".join(left.values())) <= num_columns:
            break
        left.pop(name, None)
    return "  ".join(left.values())
