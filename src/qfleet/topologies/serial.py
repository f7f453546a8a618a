"""Serial: one worker, the reference for all others.

With a network, one thread acts for a block, then learns from everything gathered so far (Mnih et al. 2015); with a
table, every step is learned from as it is made (Watkins 1989).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from numpy.typing import NDArray

from qfleet.deep.actor import Gathered
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.one_learner import OneLearner, Team
from qfleet.topologies.table_team import (
    LearningTask,
    RoundsReport,
    TableTopology,
    TableWorker,
    TaskLearner,
    initial_tables,
    largest_change,
    rounds_budget,
)


@dataclass(frozen=True)
class SerialConfig:
    """How long the turns are."""

    block_steps: int = 64
    """Steps between two turns of learning, rounded up to whole steps of the vector environment."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "block_steps")


@final
class Serial(OneLearner):
    """Acting and learning take turns."""

    def __init__(self, team: Team) -> None:
        super().__init__(team)
        self._actor = team.make_actor()

    @property
    def num_steps(self) -> int:
        """Environment steps made so far."""
        return self._actor.num_steps

    def blocks(self) -> Iterator[Gathered]:
        """Act, store, learn."""
        team, actor = self._team, self._actor
        if not self._begun:
            actor.start()
        while actor.num_steps < team.max_steps:
            gathered = actor.gather(team.learner.publish(), team.max_steps - actor.num_steps)
            team.replay.append(gathered.block)
            team.learn_due(actor.num_steps)
            yield gathered

    def _pause(self) -> dict[str, Any]:
        state, block = self._actor.pause()
        self._team.replay.append(block)
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        self._actor.resume(state)

    def close(self) -> None:
        """Closes the actor's environments."""
        self._actor.close()


@dataclass(frozen=True)
class TableSerialConfig:
    """How long a round is, and how long a silent worker is waited for."""

    block_steps: int = 0
    """Steps between two looks at the largest change (--until-change); 0: 16 for each table entry."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if self.block_steps < 0:
            raise QfleetError(f"block_steps is {self.block_steps}; it must not be negative")
        refuse_no_patience(self)


@final
class TableSerialWorker(TableWorker[TaskLearner]):
    """Learns in its own table."""

    def __init__(
        self, task: LearningTask, values: NDArray[Any], config: TableSerialConfig, group: Group
    ) -> None:
        super().__init__(task, group.rank)
        self._values, self._block_steps = values, rounds_budget(config.block_steps, task)
        self._learner = task.make_learner(0, task.make_table(values))

    def start(self) -> None:
        """Compiles, and begins the first episodes."""
        self._learner.start()

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Walks."""
        if until_change is None:
            advance = self._learner.advance(until_steps - self.num_steps)
            self.num_steps = until_steps
            return RoundsReport(advance, self.num_steps)
        advance, change, rounds = self._learner.advance(0), None, 0
        while self.num_steps < until_steps and (change is None or change > until_change):
            # A round is whole whatever is asked for: a shorter one would change less, and end the run too early.
            left = self.task.total_steps - self.num_steps
            before, steps = self._values.copy(), min(left, self._block_steps)
            advance += self._learner.advance(steps)
            self.num_steps += steps
            change, rounds = largest_change(before, self._values), rounds + 1
        return RoundsReport(advance, self.num_steps, rounds, change)

    def save_state(self) -> dict[str, Any]:
        """The walkers."""
        return {"num_steps": self.num_steps, "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self.num_steps = state["num_steps"]
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._learner.close()


@final
class TableSerial(TableTopology):
    """One worker."""

    def __init__(self, fleet: Fleet, task: LearningTask, config: TableSerialConfig) -> None:
        self._values = initial_tables(fleet, task)
        super().__init__(
            fleet,
            task,
            [partial(TableSerialWorker, task, self._values, config)],
            config.stall_timeout_seconds,
        )

    def values(self) -> NDArray[Any]:
        """The table itself."""
        return self._values

    def set_values(self, values: NDArray[Any]) -> None:
        """Writes into the table itself."""
        self._values[...] = values
