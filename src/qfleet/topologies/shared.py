"""Shared: all workers write to one table, without locks (Recht et al. 2011; for Q-learning Mnih et al. 2016).

Two workers that update the same entry at the same time may lose one of the two updates. How often is estimated
from where the walkers are: (workers - 1) times the probability that two of them stand at the same pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.topologies.checks import refuse_no_patience
from qfleet.topologies.restarts import Restarts
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

_KEPT_SAMPLES = 2**16


@dataclass(frozen=True)
class SharedConfig:
    """How long a round is, and how long a silent worker is waited for."""

    block_steps: int = 0
    """Steps of each worker between two looks at the largest change (--until-change); 0: 16 for each table entry."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if self.block_steps < 0:
            raise QfleetError(f"block_steps is {self.block_steps}; it must not be negative")
        refuse_no_patience(self)


@final
class SharedWorker(TableWorker[TaskLearner]):
    """Learns in the table that all have."""

    def __init__(
        self,
        task: LearningTask,
        rank: int,
        values: NDArray[Any],
        visits: NDArray[np.uint32] | None,
        config: SharedConfig,
        group: Group,
    ) -> None:
        super().__init__(task, rank)
        self._values, self._block_steps = values, rounds_budget(config.block_steps, task)
        self._learner = task.make_learner(rank, task.make_table(values, visits=visits))
        self._group = group
        self._pairs = np.empty(0, np.int64)

    def start(self) -> None:
        """Compiles, and begins the first episodes."""
        self._learner.start()

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Walks; without a change to watch there is nothing to tell the others."""
        advance, change, rounds = self._learner.advance(0), None, 0
        while self.num_steps < until_steps and (
            change is None or until_change is None or change > until_change
        ):
            steps = until_steps - self.num_steps
            if until_change is not None:
                left = self.task.total_steps - self.num_steps
                steps = min(left, self._block_steps * self.task.num_workers)
            before = None if until_change is None else self._values.copy()
            advance += self._learner.advance(self.share(steps))
            self.num_steps += steps
            rounds += 1
            if before is not None:
                self._group.barrier()
                change = largest_change(before, self._values)
                change = float(self._group.all_reduce(np.array([change]), "max")[0])
        return RoundsReport(advance, self.num_steps, rounds, change, {"lost_update_fraction": self._lost()})

    def _lost(self) -> float:
        """(workers - 1) * sum of mu(s, a)^2, from pairs that the walkers were seen at."""
        self._pairs = np.concatenate([self._pairs, self._learner.sample_pairs()])[-_KEPT_SAMPLES:]
        number = len(self._pairs)
        if number < 2:
            return 0.0
        _, counts = np.unique(self._pairs, return_counts=True)
        together = float((counts * (counts - 1.0)).sum()) / (number * (number - 1.0))
        return min(1.0, (self.task.num_workers - 1) * together)

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
class Shared(TableTopology):
    """One table, any number of workers."""

    def __init__(
        self,
        fleet: Fleet,
        task: LearningTask,
        config: SharedConfig,
        counts_visits: bool,
        restarts: Restarts | None = None,
    ) -> None:
        self._values = initial_tables(fleet, task)
        visits = fleet.shared_array(task.shape, np.uint32) if counts_visits else None
        makers: Sequence[Any] = [
            partial(SharedWorker, task, rank, self._values, visits, config)
            for rank in range(task.num_workers)
        ]
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)

    def values(self) -> NDArray[Any]:
        """The table itself."""
        return self._values

    def set_values(self, values: NDArray[Any]) -> None:
        """Writes into the table itself."""
        self._values[...] = values
