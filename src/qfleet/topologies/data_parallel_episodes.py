"""REINFORCE, serial and data parallel: every worker plays its own episodes, the mean of all gradients is applied.

N workers with M episodes each make the updates of one with N * M, as a gradient is a mean over episodes (Williams
1992). Gradients travel as one flat vector, added in the order of the ranks, so that parameters and optimizer stay
equal, bit for bit, without being sent. One worker alone is serial.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.reinforce_task import EpisodesLearner, ReinforceTask, advance_of
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.tabular.learner import Advance
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.table_team import RoundsReport, TableTopology, TableWorker, new_table


@dataclass(frozen=True)
class EpisodesConfig:
    """How long a silent worker is waited for."""

    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if not self.stall_timeout_seconds > 0:
            raise QfleetError(f"stall_timeout_seconds is {self.stall_timeout_seconds}; it must be above 0")


@final
class EpisodesWorker(TableWorker[EpisodesLearner]):
    """Plays in its own environments, and learns with all others."""

    def __init__(self, task: ReinforceTask, group: Group) -> None:
        super().__init__(task, group.rank)
        self._group = group
        self._table = task.make_table(new_table(task, task.shape, group.rank))
        self._learner = task.make_learner(group.rank, self._table)

    def start(self) -> None:
        """Every update begins new episodes."""
        self._learner.start()

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Gather, gradient, mean of all workers' gradients, apply; to the end of an update."""
        learner, advance, rounds = self._learner, Advance(), 0
        learner.take_values()
        while self.num_steps < until_steps:
            gathered = learner.gather()
            advance += advance_of(gathered)
            gradient = self._sum(learner.learner.gradient(gathered.episodes).vector)
            gradient /= self._group.size
            learner.learner.apply(gradient)
            self.num_steps += int(self._sum(np.array([gathered.num_steps]))[0])
            rounds += 1
        learner.give_values()
        measured = learner.measured() | ({} if self.rank == 0 else {"updates": 0.0})  # made by all together
        return RoundsReport(advance, self.num_steps, rounds, None, measured)

    def _sum(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._group.all_reduce(array, "sum")

    def values(self) -> NDArray[Any]:
        """(1, 1, num_values)."""
        return self._table.values

    def set_values(self, values: NDArray[Any]) -> None:
        """Takes them for its own."""
        self._table.values[...] = values

    def save_state(self) -> dict[str, Any]:
        """Baseline, optimizer and counters."""
        return {"num_steps": self.num_steps, "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self.num_steps = state["num_steps"]
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._learner.close()


@final
class DataParallelEpisodes(TableTopology):
    """As many equal learners as workers."""

    def __init__(
        self, fleet: Fleet, task: ReinforceTask, config: EpisodesConfig, restarts: Restarts | None = None
    ) -> None:
        makers: Sequence[Any] = [partial(EpisodesWorker, task)] * task.num_workers
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)

    def values(self) -> NDArray[Any]:
        """The first worker's: all are equal."""
        return self._one(0, "values")

    def set_values(self, values: NDArray[Any]) -> None:
        """Gives them to every worker."""
        self._all("set_values", values)
