"""What roles have done up to a moment, and what that says of the time between two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from qfleet.fleet_view import FleetView, Role
from qfleet.topologies.metering import Reading


@dataclass(frozen=True)
class RoleTotals:
    """What a role has done since the run began."""

    name: str
    amount: float
    unit: str
    readings: tuple[Reading, ...]
    """Of every member, as it said last."""
    queued: float | None = None
    """Calls that waited, summed over all samples."""
    restarts: int | None = None


@dataclass(frozen=True)
class Totals:
    """All roles up to a moment."""

    seconds: float
    """Of training, without evaluation and saving."""
    num_samples: int
    """Times that queues were looked at."""
    num_steps: int
    num_updates: int | None
    """None where every step is one."""
    roles: tuple[RoleTotals, ...]


def busy_share(before: Sequence[Reading], after: Sequence[Reading]) -> float | None:
    """Mean of the members heard in between, None if none was; one that was replaced counts from its beginning."""
    shares = []
    for earlier, later in zip(before, after, strict=True):
        start = earlier if later.seconds >= earlier.seconds else Reading()
        if later.seconds > start.seconds:
            shares.append((later.busy_seconds - start.busy_seconds) / (later.seconds - start.seconds))
    return float(np.clip(np.mean(shares), 0.0, 1.0)) if shares else None


@final
class Window:
    """What happens between two looks."""

    def __init__(self, begin: Totals) -> None:
        self._begin = begin
        self._busy = {role.name: 0.0 for role in begin.roles}
        """Of each role, as last known: a member that is at one call for long says nothing meanwhile."""
        self.stalenesses: dict[str, list[int]] = {role.name: [] for role in begin.roles}

    def look(self, now: Totals) -> FleetView:
        """What happened since the last look."""
        begin, self._begin = self._begin, now
        roles = [
            self._role(before, after, now.seconds - begin.seconds, now.num_samples - begin.num_samples)
            for before, after in zip(begin.roles, now.roles, strict=True)
        ]
        return FleetView(tuple(roles), _updates_per_step(begin, now))

    def _role(self, before: RoleTotals, after: RoleTotals, seconds: float, num_samples: int) -> Role:
        name, queue = after.name, None
        busy = busy_share(before.readings, after.readings)
        self._busy[name] = busy = self._busy[name] if busy is None else busy
        if before.queued is not None and after.queued is not None and num_samples:
            queue = (after.queued - before.queued) / num_samples
        stalenesses, self.stalenesses[name] = self.stalenesses[name], []
        return Role(
            name,
            len(after.readings),
            max(0.0, after.amount - before.amount) / max(seconds, 1e-9),
            after.unit,
            busy,
            queue,
            after.restarts,
            float(np.mean(stalenesses)) if stalenesses else None,
            float(np.percentile(stalenesses, 99)) if stalenesses else None,
        )


def _updates_per_step(begin: Totals, end: Totals) -> float | None:
    steps = end.num_steps - begin.num_steps
    if end.num_updates is None or steps <= 0:
        return None
    return (end.num_updates - (begin.num_updates or 0)) / steps
