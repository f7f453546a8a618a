"""What a run measured over time: metrics.jsonl, and the same for TensorBoard."""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qfleet.runs.durable import write_atomically
from qfleet.runs.events import EventFile

_NAME = "metrics.jsonl"


class MetricsWriter:
    """Appends to metrics.jsonl and a TensorBoard event file in `folder`, from step `first_step` on.

    What an interrupted run wrote after `first_step` is dropped; `seconds` goes on from the last line kept.
    A disk that refuses is reported once, as one line; then nothing is written and training goes on.
    """

    def __init__(
        self, folder: Path, first_step: int = 0, report: Callable[[str], None] = lambda line: None
    ) -> None:
        self._path = folder / _NAME
        self._report = report
        self._file = None
        self._events: EventFile | None = None
        self._seconds_before = 0.0
        self._start_seconds = time.monotonic()
        try:
            self._seconds_before = _drop_after(folder, first_step)
            self._file = self._path.open("ab")
            self._events = EventFile(folder, first_step)
        except OSError as error:
            self._give_up(error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` by metric name ("rollout/ep_rew_mean", ...) at environment step `step`."""
        if self._file is None or self._events is None:
            return
        seconds = self._seconds_before + time.monotonic() - self._start_seconds
        line = {"step": step, "seconds": round(seconds, 3)}
        line |= {name: _number_or_none(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            # A line at a time: a process that is killed leaves at most the last one torn.
            self._file.flush()
            self._events.write(step, {name: float(value) for name, value in values.items()})
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Closes the files; later writes are dropped."""
        for file in (self._file, self._events):
            # Closing tries again to write what a full disk refused.
            with suppress(OSError):
                if file:
                    file.close()
        self._file = self._events = None

    def _give_up(self, error: OSError) -> None:
        self._report(f"{self._path}: metrics are no longer recorded: {error.strerror or error}")
        self.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `folder`/metrics.jsonl in order; [] if there is none. A line cut short is left out."""
    path = folder / _NAME
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _drop_after(folder: Path, first_step: int) -> float:
    """Drops the lines of metrics.jsonl after `first_step`; seconds of the last line kept, 0 if none."""
    path = folder / _NAME
    if not path.exists():
        return 0.0
    kept = [line for line in read_metrics(folder) if line["step"] <= first_step]
    write_atomically(path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
    return float(kept[-1].get("seconds") or 0.0) if kept else 0.0


def _number_or_none(value: float) -> float | int | None:
    """JSON knows neither NaN nor infinity; NumPy's numbers become Python's."""
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
