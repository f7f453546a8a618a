"""Overlapped: one thread acts while another learns, in step, so that the same seed gives the same bits.

While block n is acted, with the parameters as they stood when it began, the learner makes the updates owed
for the steps before it, from the replay as it stood when it began. Neither sees what the other does until both
have ended. Against serial, the actor's parameters are one block older.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from qfleet.deep.actor import Gathered
from qfleet.errors import QfleetError
from qfleet.fleet_view import FleetView
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.looks import Looks
from qfleet.topologies.metering import Reading
from qfleet.topologies.one_learner import OneLearner, Team
from qfleet.topologies.role_totals import RoleTotals, Totals

_PAUSE_TIMEOUT_SECONDS = 60.0
_CLOSE_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class OverlappedConfig:
    """How long the blocks are, and how long a silent actor is waited for."""

    block_steps: int = 64
    """Steps of a block, rounded up to whole steps of the vector environment."""
    stall_timeout_seconds: float = 300.0
    """A block that takes longer ends the run with an error."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "block_steps")
        refuse_no_patience(self)


@final
class Overlapped(OneLearner):
    """Acting and learning at the same time, meeting after every block."""

    def __init__(self, team: Team, config: OverlappedConfig) -> None:
        super().__init__(team)
        self._config = config
        self._actor = team.fleet.start("the actor", team.make_actor)
        self._num_steps = 0
        self._meters: _Meters | None = None

    @property
    def num_steps(self) -> int:
        """Environment steps made so far."""
        return self._num_steps

    def blocks(self) -> Iterator[Gathered]:
        """Act and learn, meet, store."""
        team, timeout = self._team, self._config.stall_timeout_seconds
        if not self._begun:
            self._actor.call("start").result(timeout)
        self._meters = _Meters(self)
        while self.num_steps < team.max_steps:
            self._meters.begin()
            acting = self._actor.call("gather", team.learner.publish(), team.max_steps - self.num_steps)
            acting.when_done(self._meters.acted)
            team.learn_due(self.num_steps)
            self._meters.learned()
            gathered = acting.result(timeout)
            self._meters.end()
            team.replay.append(gathered.block)
            self._num_steps += gathered.num_steps
            self._meters.looks.note_staleness("actor", gathered.staleness(self.num_updates))
            if self.num_steps >= team.max_steps:
                team.learn_due(self.num_steps)
            yield gathered

    def view(self) -> FleetView | None:
        """Actor and learner."""
        return self._meters.looks.view() if self._meters else None

    def role_metrics(self) -> dict[str, float]:
        """The same."""
        return self._meters.looks.metrics() if self._meters else {}

    def _pause(self) -> dict[str, Any]:
        state, block = self._actor.call("pause").result(_PAUSE_TIMEOUT_SECONDS)
        self._team.replay.append(block)
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        self._actor.call("resume", state).result(_PAUSE_TIMEOUT_SECONDS)
        self._num_steps = int(state["counters"][2])

    def close(self) -> None:
        """Closes the actor's environments, unless the actor hangs."""
        with suppress(QfleetError):
            self._actor.call("close").result(_CLOSE_TIMEOUT_SECONDS)


@final
class _Meters:
    """How long the two work of the time until they meet."""

    def __init__(self, topology: Overlapped) -> None:
        self._topology = topology
        self._began = self._acted_at = self._learned_at = 0.0
        self._acting = self._learning = self._seconds = 0.0
        self.looks = Looks(self._totals)

    def begin(self) -> None:
        """Both begin."""
        self._began = self._acted_at = time.perf_counter()

    def acted(self) -> None:
        """The actor has ended, in a thread of its own."""
        self._acted_at = time.perf_counter()

    def learned(self) -> None:
        """The learner has."""
        self._learned_at = time.perf_counter()

    def end(self) -> None:
        """They have met."""
        self._seconds += time.perf_counter() - self._began
        self._acting += self._acted_at - self._began
        self._learning += self._learned_at - self._began

    def _totals(self) -> Totals:
        steps, updates = self._topology.num_steps, self._topology.num_updates
        actor = RoleTotals("actor", steps, "steps", (Reading(self._acting, self._seconds),))
        learner = RoleTotals("learner", updates, "updates", (Reading(self._learning, self._seconds),))
        return Totals(self._seconds, 0, steps, updates, (actor, learner))
