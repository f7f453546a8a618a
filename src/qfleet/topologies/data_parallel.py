"""Data parallel: every worker acts and learns with the same parameters, and each update is made with the mean gradient.

N workers with minibatches of B transitions, each from its own replay, make the updates of one with N * B
(Dean et al. 2012, section 4; synchronous: Chen et al. 2016, arXiv 1604.00981). Gradients travel as one flat vector,
added in the order of the ranks, so that parameters and optimizer stay equal, bit for bit, without being sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.task import NetworkLearner, NetworkTask
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.tabular.learner import Advance
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.table_team import RoundsReport, TableTopology, TableWorker, new_table


@dataclass(frozen=True)
class DataParallelConfig:
    """How long the turns of acting are, and how long a silent worker is waited for."""

    block_steps: int = 64
    """Steps of each worker between two turns of learning, rounded up to whole steps of its environments."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if self.block_steps < 1:
            raise QfleetError(f"block_steps is {self.block_steps}; it must be at least 1")
        if not self.stall_timeout_seconds > 0:
            raise QfleetError(f"stall_timeout_seconds is {self.stall_timeout_seconds}; it must be above 0")


@final
class DataParallelWorker(TableWorker[NetworkLearner]):
    """Acts in its own environments, and learns with all others."""

    def __init__(self, task: NetworkTask, config: DataParallelConfig, group: Group) -> None:
        super().__init__(task, group.rank)
        self._group, self._config = group, config
        self._table = task.make_table(new_table(task, task.shape, group.rank))
        self._learner = task.make_learner(group.rank, self._table)

    def start(self) -> None:
        """Begins the first episodes."""
        self._learner.start()

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Act, store, and make the updates due, each with the mean of all workers' gradients."""
        learner, advance, rounds = self._learner, Advance(), 0
        learner.take_values()
        while self.num_steps < until_steps:
            steps = min(self._config.block_steps * self._group.size, self.task.total_steps - self.num_steps)
            advance += learner.gather(self.share(steps))
            self.num_steps += steps
            for _ in range(self._num_due()):
                batch = learner.draw()
                gradient = learner.learner.gradient(batch)
                learner.update(batch, replace(gradient, vector=self._mean(gradient.vector)))
            rounds += 1
        learner.give_values()
        measured = learner.measured() | ({} if self.rank == 0 else {"updates": 0.0})  # made by all together
        return RoundsReport(advance, self.num_steps, rounds, None, measured)

    def _num_due(self) -> int:
        """What is due for the steps of one worker, once every replay has something."""
        due = self._learner.config.updates_due(self.num_steps // self._group.size)
        due = max(0, due - self._learner.learner.num_updates) if len(self._learner.replay) else 0
        return int(self._group.all_reduce(np.array([due]), "min")[0])

    def _mean(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        total = self._group.all_reduce(vector, "sum")
        total /= self._group.size
        return total

    def values(self) -> NDArray[Any]:
        """(1, 1, num_values)."""
        return self._table.values

    def set_values(self, values: NDArray[Any]) -> None:
        """Takes them for its own."""
        self._table.values[...] = values

    def save_state(self) -> dict[str, Any]:
        """Environments, replay and optimizer."""
        return {"num_steps": self.num_steps, "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self.num_steps = state["num_steps"]
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._learner.close()


@final
class DataParallel(TableTopology):
    """As many equal learners as workers."""

    def __init__(
        self, fleet: Fleet, task: NetworkTask, config: DataParallelConfig, restarts: Restarts | None = None
    ) -> None:
        makers: Sequence[Any] = [partial(DataParallelWorker, task, config)] * task.num_workers
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)

    def values(self) -> NDArray[Any]:
        """The first worker's: all are equal."""
        return self._one(0, "values")

    def set_values(self, values: NDArray[Any]) -> None:
        """Gives them to every worker."""
        self._all("set_values", values)
