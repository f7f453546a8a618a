"""What topologies of networks have in common whose workers are equal, always: each update is made by all together."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Fleet, Group
from qfleet.tabular.learner import Advance
from qfleet.tabular.records import Table
from qfleet.topologies.checks import refuse_no_patience
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.table_team import (
    LearningTask,
    RoundsReport,
    TableTopology,
    TableWorker,
    TaskLearner,
    new_table,
)


class NetworkTaskLearner(TaskLearner, Protocol):
    """One worker's network and environments, on the surface of a table's learner."""

    def take_values(self) -> None:
        """From the table into the network."""
        ...

    def give_values(self) -> None:
        """The reverse."""
        ...


Learner = TypeVar("Learner", bound=NetworkTaskLearner)


@dataclass(frozen=True)
class EqualWorkersConfig:
    """How long a silent worker is waited for."""

    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        refuse_no_patience(self)


class EqualWorker(TableWorker[Learner], Generic[Learner]):
    """Has the same parameters as all others, and its own environments."""

    def __init__(self, task: LearningTask, group: Group) -> None:
        super().__init__(task, group.rank)
        self._group = group
        self._table: Table = task.make_table(new_table(task, task.shape, group.rank))
        learner: Any = task.make_learner(group.rank, self._table)
        self._learner: Learner = learner

    def start(self) -> None:
        """Begins the first episodes."""
        self._learner.start()

    @abstractmethod
    def _round(self, until_steps: int) -> Advance:
        """Acts, and makes the updates due with all others."""

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Whole rounds, until all workers together have made so many steps."""
        advance, rounds = Advance(), 0
        self._learner.take_values()
        while self.num_steps < until_steps:
            advance += self._round(until_steps)
            rounds += 1
        self._learner.give_values()
        measured = self._learner.measured()
        if self.rank:
            measured["updates"] = 0.0  # they are made by all together, and count once
        return RoundsReport(advance, self.num_steps, rounds, None, measured)

    def _mean(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of all workers' vectors."""
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
        """Everything but the values."""
        return {"num_steps": self.num_steps, "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.num_steps = state["num_steps"]
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._learner.close()


class EqualWorkers(TableTopology):
    """As many equal learners as workers."""

    def __init__(
        self,
        fleet: Fleet,
        task: LearningTask,
        make_worker: Callable[..., EqualWorker[Any]],
        config: EqualWorkersConfig,
        restarts: Restarts | None = None,
    ) -> None:
        """`make_worker` is given the task, the config and the worker's Group."""
        makers: Sequence[Any] = [partial(make_worker, task, config)] * task.num_workers
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)

    def values(self) -> NDArray[Any]:
        """The first worker's: all are equal."""
        return self._one(0, "values")

    def set_values(self, values: NDArray[Any]) -> None:
        """Gives them to every worker."""
        self._all("set_values", values)
