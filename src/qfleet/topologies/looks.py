"""Two look at what the roles of a topology do, each since its own last look: a person who watches, and the metrics."""

import time
from collections.abc import Callable
from typing import final

from qfleet.fleet_view import FleetView
from qfleet.topologies.role_totals import Totals, Window

_VIEW_SECONDS = 0.5


@final
class Looks:
    """`totals` counts from any moment on, always the same."""

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals, begin = totals, totals()
        self._shown, self._logged = Window(begin), Window(begin)
        self._shown_at, self._view = time.perf_counter(), self._shown.look(begin)

    def note_staleness(self, role: str, num_updates: int) -> None:
        """A member of that role worked with parameters so many updates old."""
        for window in (self._shown, self._logged):
            window.stalenesses[role].append(num_updates)

    def view(self) -> FleetView:
        """The last half second or more, for a person; cheap to call often."""
        now = time.perf_counter()
        if now - self._shown_at >= _VIEW_SECONDS:
            self._shown_at, self._view = now, self._shown.look(self._totals())
        return self._view

    def metrics(self) -> dict[str, float]:
        """Since the last call, for the metrics."""
        return self._logged.look(self._totals()).metrics()
