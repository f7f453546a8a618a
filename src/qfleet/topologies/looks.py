"""Two look at what the roles of a topology do, each since its own last look: a person who watches, and the metrics."""

import time
from collections.abc import Callable
from typing import final

from qfleet.fleet_view import FleetView
from qfleet.topologies.role_totals import Totals, Window

_VIEW_SECONDS = 0.5
_LOG_SECONDS = 0.2


@final
class Looks:
    """`totals` counts from any moment on, always the same."""

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals, begin = totals, totals()
        self._shown, self._logged = Window(begin), Window(begin)
        self._shown_at, self._view = time.perf_counter(), self._shown.look(begin)
        self._logged_at, self._metrics = time.perf_counter(), dict[str, float]()

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
        """The last fifth of a second or more, for the metrics; rates of shorter times would say nothing."""
        now = time.perf_counter()
        if not self._metrics or now - self._logged_at >= _LOG_SECONDS:
            self._logged_at, self._metrics = now, self._logged.look(self._totals()).metrics()
        return self._metrics
