"""Parameter server for tables: workers walk in copies of the table and push blocks of updates, made as they come."""

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.gradient_sources import Contribution, GradientSource
from qfleet.deep.parameters import Parameters
from qfleet.errors import QfleetError
from qfleet.topologies.parameter_server import ServedRun, ServerConfig
from qfleet.topologies.step_rules import BlockRule
from qfleet.topologies.table_team import LearningTask, TaskLearner, new_table

_BLOCK_STEPS_OF_ENTRY = 4
_SHORTEST_BLOCK_STEPS, _LONGEST_BLOCK_STEPS = 2**15, 2**25
_LEAST_BLOCKS = 100
"""Of each worker."""
_SNAPSHOT_BLOCKS = 20
"""Of each worker between two snapshots: what is lost with a shard is not learned again."""


@dataclass(frozen=True)
class TableServerConfig(ServerConfig):
    """How the server is cut, what it does with what comes late, and how long workers walk before they push."""

    block_steps: int = 0
    """Steps of a worker between pulling the table and pushing; 0: 4 for each of its entries, within bounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_steps < 0:
            raise QfleetError(f"block_steps is {self.block_steps}; it must not be negative")

    def steps_of(self, task: LearningTask) -> int:
        """Of a block."""
        if self.block_steps:
            return self.block_steps
        fair = max(_SHORTEST_BLOCK_STEPS, _BLOCK_STEPS_OF_ENTRY * task.shape[1] * task.shape[2])
        most = task.total_steps // (_LEAST_BLOCKS * task.num_workers)
        return max(1, min(fair, _LONGEST_BLOCK_STEPS, most))


@final
class TableSource(GradientSource):
    """A worker's copy of the table, and its walkers.

    The server's parameters are the table's entries and, where learning rates go by visits, the visits behind them:
    these are everybody's, so that a rate falls with all workers' updates of a pair.
    """

    def __init__(self, task: LearningTask, block_steps: int, rank: int, incarnation: int) -> None:
        self._task, self._block_steps, self._rank = task, block_steps, rank
        self._table = task.make_table(new_table(task, task.shape, rank), weighted=True)
        self._learner = self._new_learner()
        self._pulled = self._entries()

    def _new_learner(self) -> TaskLearner:
        return self._task.make_learner(self._rank, self._table, weighted=True)

    def _entries(self) -> NDArray[Any]:
        """(num_parameters,): a copy of what the server has of it."""
        return entries(self._table.values, self._table.visits)

    def start(self) -> None:
        """Compiles, and begins the first episodes."""
        self._learner.start()

    def take(self, version: int, vector: NDArray[Any]) -> None:
        """The table, and the visits."""
        values, visits, weights = self._table
        self._pulled = vector
        values.reshape(-1)[:] = vector[: values.size]
        visits.reshape(-1)[:] = vector[values.size :]
        weights[:] = 0.0

    def contribute(self, max_steps: int, progress: float) -> Contribution:
        """Walks for a block, and says what its updates do to any table."""
        made = self._learner.advance(min(max_steps, self._block_steps))
        factors = np.ones_like(self._pulled)
        np.exp(
            -self._table.log_weights.reshape(-1), out=factors[: self._table.values.size], casting="same_kind"
        )
        block = np.stack([self._entries() - factors * self._pulled, factors])
        return Contribution(made.steps, made.episodes, *made.means(), gradient=block)

    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """Begins new episodes, and explores as after so many steps."""
        self._learner.close()
        self._learner = self._new_learner()
        self._learner.begin_at(num_steps * self._task.num_workers)
        self._learner.start()

    def repeat(self, num_gradients: int) -> None:
        """Nothing: steps are gone once they are learned from."""

    def buffers(self) -> dict[str, NDArray]:
        """None."""
        return {}

    def save_state(self) -> dict[str, Any]:
        """The walkers."""
        return {"learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._learner.close()


def served_table(task: LearningTask, config: TableServerConfig) -> ServedRun:
    """A table on a server."""
    values = np.full(task.shape, task.initial_value, task.dtype)
    initial = entries(values, np.zeros(values.shape if task.counts_visits else 0, np.uint32))
    return ServedRun(
        partial(TableSource, task, config.steps_of(task)),
        Parameters(0, initial),
        (BlockRule(0, len(initial)),),
        values.size,
        task.total_steps,
        task.num_workers,
        snapshot_updates=_SNAPSHOT_BLOCKS * task.num_workers,
    )


def entries(values: NDArray[Any], visits: NDArray[np.uint32]) -> NDArray[Any]:
    """(num_parameters,) of a table's type: a copy of its values, and of its visits where they are counted."""
    return np.concatenate([values.reshape(-1), visits.reshape(-1).astype(values.dtype)])
