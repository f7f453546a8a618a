"""What the driver of workers in rounds knows of them."""

from collections.abc import Sequence
from typing import final

from qfleet.topologies.looks import Looks
from qfleet.topologies.metering import NOTHING_READ, Reading, sums
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.role_totals import RoleTotals, Totals
from qfleet.topologies.table_learning import RoundsReport


@final
class RoundsAccount:
    """Workers compute, and then exchange, which is a role of its own: whichever takes longer is the bottleneck."""

    def __init__(self, num_workers: int, restarts: Restarts | None) -> None:
        self._restarts = restarts
        self._readings = [NOTHING_READ] * num_workers
        self._num_rounds = self._num_steps = 0
        self._num_updates: int | None = None
        self.looks = Looks(self._totals)

    def note(self, reports: Sequence[RoundsReport], num_steps: int) -> None:
        """What the workers did in a call, and the steps of all of them in it."""
        self._readings = sums(self._readings, [report.reading for report in reports])
        self._num_rounds += max(report.rounds for report in reports)
        self._num_steps += num_steps

    def note_updates(self, number: int) -> None:
        """Of all workers, where not every step is one."""
        self._num_updates = (self._num_updates or 0) + number

    def _totals(self) -> Totals:
        seconds = sum(one.seconds for one in self._readings)
        exchanging = Reading(seconds - sum(one.busy_seconds for one in self._readings), seconds)
        restarts = None if self._restarts is None else self._restarts.used
        roles = (
            RoleTotals("worker", self._num_steps, "steps", tuple(self._readings), restarts=restarts),
            RoleTotals("exchange", self._num_rounds, "rounds", (exchanging,)),
        )
        return Totals(self._readings[0].seconds, 0, self._num_steps, self._num_updates, roles)
