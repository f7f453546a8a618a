"""What the driver of workers in rounds knows of them."""

from collections.abc import Sequence
from typing import Protocol, final

from qfleet.topologies.looks import Looks
from qfleet.topologies.metering import Reading
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.role_totals import RoleTotals, Totals


class Reported(Protocol):
    """What a worker says of the rounds it has made."""

    @property
    def rounds(self) -> int:
        """How many."""
        ...

    @property
    def reading(self) -> Reading:
        """Of these rounds alone."""
        ...


@final
class RoundsAccount:
    """Workers compute, and then exchange, which is a role of its own: whichever takes longer is the bottleneck."""

    def __init__(self, num_workers: int, restarts: Restarts | None) -> None:
        self._restarts = restarts
        self._readings = [Reading()] * num_workers
        self._totals = Totals(0.0, 0, 0, 0, self._roles(0, 0))
        self._num_rounds = 0
        self.looks = Looks(lambda: self._totals)

    def note(self, reports: Sequence[Reported], num_steps: int, num_updates: int | None) -> None:
        """What all workers did in a call, by their steps, and their updates: None where every step is one."""
        self._readings = [
            Reading(made.busy_seconds + report.reading.busy_seconds, made.seconds + report.reading.seconds)
            for made, report in zip(self._readings, reports, strict=True)
        ]
        self._num_rounds += max(report.rounds for report in reports)
        steps = self._totals.num_steps + num_steps
        updates = None if num_updates is None else (self._totals.num_updates or 0) + num_updates
        roles = self._roles(steps, self._num_rounds)
        self._totals = Totals(self._readings[0].seconds, 0, steps, updates, roles)

    def _roles(self, num_steps: int, num_rounds: int) -> tuple[RoleTotals, ...]:
        seconds = sum(one.seconds for one in self._readings)
        exchanging = Reading(seconds - sum(one.busy_seconds for one in self._readings), seconds)
        restarts = None if self._restarts is None else self._restarts.used
        return (
            RoleTotals("worker", num_steps, "steps", tuple(self._readings), restarts=restarts),
            RoleTotals("exchange", num_rounds, "rounds", (exchanging,)),
        )
