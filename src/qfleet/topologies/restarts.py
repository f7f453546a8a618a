"""How often lost workers are replaced, and where all of them go back to when that happens."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from qfleet.errors import FleetError

_SNAPSHOT_SECONDS = 5.0
_SNAPSHOT_SHARE = 0.05
"""Of the time, at most, is spent on snapshots."""


@dataclass(frozen=True)
class Snapshot:
    """Where all workers go back to."""

    num_steps: int
    """Steps of all workers."""
    tables: Any
    """As the topology keeps them."""
    states: list[Any]
    """What stands for each worker's state."""


@final
class Restarts:
    """The budget of a run, which spans topologies that follow one another."""

    def __init__(self, allowed: int, report: Callable[[str], None] = lambda line: None) -> None:
        self.allowed, self._report = allowed, report
        self.used = 0
        self._next_snapshot = 0.0

    def spend(self, error: FleetError, num_steps: int) -> None:
        """Says what was lost, and that new workers are started; raises the error if that was done often enough."""
        if self.used >= self.allowed:
            if self.allowed:
                raise FleetError(f"{error}; all {self.allowed} restarts are spent (--restarts)") from error
            raise error
        self.used += 1
        self._report(
            f"{error}; new workers go on from step {num_steps:,} (restart {self.used} of {self.allowed})"
        )

    def is_snapshot_due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() >= self._next_snapshot

    def note_snapshot(self, seconds: float) -> None:
        """The next one is due the later, the longer this one took."""
        self._next_snapshot = time.monotonic() + max(_SNAPSHOT_SECONDS, seconds / _SNAPSHOT_SHARE)

    def want_snapshot(self) -> None:
        """Copies were lost with whoever kept them: the next one is due at once."""
        self._next_snapshot = 0.0
