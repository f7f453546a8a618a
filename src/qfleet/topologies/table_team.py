"""What topologies of tables have in common: workers that are told how far to go, and tables that are read."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import FleetError
from qfleet.fleet import Fleet, Future, Group, Handle
from qfleet.tabular.learner import Advance
from qfleet.tabular.records import Table

_CLOSE_SECONDS = 2.0
_GRACE_SECONDS = 2.0
"""Workers that wait for another name it first; the driver would name them."""
_LATER_SECONDS = 0.5
"""How long the others are waited for once one has failed."""
SHORTEST_ROUND_STEPS = 2**18
LONGEST_ROUND_STEPS = 2**25
START_SECONDS = 300.0
"""For importing, compiling and the first states."""


class TaskLearner(Protocol):
    """One worker's table and walkers, compiled or stepped in Python."""

    table: Table

    def start(self) -> None:
        """Puts the walkers into their first states."""
        ...

    def advance(self, budget: int) -> Advance:
        """Makes `budget` steps."""
        ...

    def sample_pairs(self) -> NDArray[np.int64]:
        """State-action pairs the walkers stand at, as numbers state * num_actions + action."""
        ...

    def save_state(self) -> dict[str, Any]:
        """Everything but the table's values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class LearningTask(Protocol):
    """What all workers learn; picklable."""

    @property
    def num_workers(self) -> int:
        """Members of the topology."""
        ...

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole table."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the table."""
        ...

    @property
    def initial_value(self) -> float:
        """Of every entry."""
        ...

    def make_table(
        self, values: NDArray[Any], *, weighted: bool = False, visits: NDArray[np.uint32] | None = None
    ) -> Table:
        """A table around values that exist."""
        ...

    def make_learner(self, worker: int, table: Table, *, weighted: bool = False) -> TaskLearner:
        """The learner of one worker."""
        ...


@dataclass(frozen=True)
class RoundsReport:
    """What one worker did when told to advance."""

    advance: Advance
    num_steps: int
    """Steps of all workers since the run's beginning."""
    rounds: int = 0
    largest_change: float | None = None
    """Of any value in the last round, if it was asked for."""
    extras: dict[str, float] = field(default_factory=dict)
    """What the topology measures: imbalance, parked fraction, lost updates, ..."""


class TableWorker(ABC):
    """One member of a topology of tables, wherever it lives."""

    def __init__(self, task: LearningTask, rank: int) -> None:
        self.task, self.rank = task, rank
        self.num_steps = 0
        """Steps of all workers."""

    @abstractmethod
    def start(self) -> None:
        """Compiles, and puts the walkers into their first states."""

    @abstractmethod
    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Works in rounds until all workers together have made `until_steps` steps, or values change no more."""

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """Everything but the values."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `save_state`; the values were put back already."""

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds."""

    def share(self, steps: int) -> int:
        """This worker's part of some steps."""
        workers = self.task.num_workers
        return steps // workers + (self.rank < steps % workers)


def rounds_budget(asked: int, task: LearningTask) -> int:
    """Steps of each worker's round: as asked, or 16 for each of the table's entries, within bounds.

    Fewer would spend more than a few per cent of the time on merging; more make no merge worth waiting for.
    """
    if asked:
        return asked
    _, num_states, num_actions = task.shape
    fair = min(16 * num_states * num_actions, LONGEST_ROUND_STEPS)
    return max(1, min(max(fair, SHORTEST_ROUND_STEPS), task.total_steps // (20 * task.num_workers)))


def largest_change(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Between two tables of one shape."""
    return float(
        max((np.abs(new - old).max(initial=0.0) for old, new in zip(before, after, strict=True)), default=0.0)
    )


def _results(futures: Sequence[Future], timeout_seconds: float) -> list[Any]:
    """All results; of several errors the one that is no mere consequence of another worker's."""
    results, errors, deadline = [], [], time.monotonic() + timeout_seconds
    for future in futures:
        left = max(0.0, deadline - time.monotonic())
        try:
            results.append(future.result(min(left, _LATER_SECONDS) if errors else left))
        except Exception as error:
            errors.append(error)
    if errors:
        raise next((error for error in errors if not isinstance(error, FleetError)), errors[0])
    return results


def initial_tables(fleet: Fleet, task: LearningTask, *copies: int) -> NDArray[Any]:
    """(*copies, num_tables, num_states, num_actions) in memory that all workers see, at the initial values."""
    tables = fleet.shared_array((*copies, *task.shape), task.dtype)
    if task.initial_value:
        tables[...] = task.initial_value
    return tables


class TableTopology(ABC):
    """The driver's view: starts the workers, tells them how far to go, reads their tables."""

    def __init__(
        self,
        fleet: Fleet,
        task: LearningTask,
        makers: Sequence[Callable[[Group], TableWorker]],
        stall_timeout_seconds: float,
    ) -> None:
        names = [f"worker {rank}" for rank in range(len(makers))]
        self._total_steps = task.total_steps
        self._timeout_seconds = stall_timeout_seconds
        self._handles: Sequence[Handle] = fleet.start_group(names, makers, stall_timeout_seconds)
        self.num_steps = 0
        """Steps of all workers."""
        self._begun = self._is_broken = False

    def prepare(self) -> None:
        """Lets the workers compile and begin, if they have not."""
        if not self._begun:
            self._all("start", timeout_seconds=max(START_SECONDS, self._timeout_seconds))
            self._begun = True

    def advance(self, until_steps: int, until_change: float | None = None) -> list[RoundsReport]:
        """All workers' rounds until `until_steps` steps, of those of the run, are made in all."""
        self.prepare()
        reports = self._all("advance", min(until_steps, self._total_steps), until_change)
        self.num_steps = self._steps_of(reports)
        return reports

    @staticmethod
    def _steps_of(reports: list[RoundsReport]) -> int:
        return reports[0].num_steps

    def _one(self, rank: int, method: str, *arguments: Any) -> Any:
        """One call of one worker."""
        return self._handles[rank].call(method, *arguments).result(self._timeout_seconds)

    def _all(self, method: str, *arguments: Any, timeout_seconds: float | None = None) -> list[Any]:
        """One call of every worker at the same time."""
        timeout = self._timeout_seconds + _GRACE_SECONDS if timeout_seconds is None else timeout_seconds
        try:
            return _results([handle.call(method, *arguments) for handle in self._handles], timeout)
        except FleetError:
            self._is_broken = True
            raise

    def close(self) -> None:
        """Lets the workers free what they hold, if none of them is dead or hangs: they would be waited for."""
        if self._is_broken:
            return
        with suppress(Exception):
            self._all("close", timeout_seconds=_CLOSE_SECONDS)

    @abstractmethod
    def values(self) -> NDArray[Any]:
        """(num_tables, num_states, num_actions): the merged table; a view where that is possible."""

    @abstractmethod
    def set_values(self, values: NDArray[Any]) -> None:
        """Puts values (num_tables, num_states, num_actions) into every worker's table."""

    def save_tables(self) -> dict[str, Any]:
        """The values: {"values": (num_tables, num_states, num_actions)}, or shards of it."""
        return {"values": self.values()}

    def load_tables(self, state: dict[str, Any]) -> None:
        """Takes what `save_tables` returned."""
        self.set_values(state["values"])

    def save_state(self) -> dict[str, Any]:
        """Everything but the values."""
        return {
            "num_steps": self.num_steps,
            "workers": {str(rank): state for rank, state in enumerate(self._all("save_state"))},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `save_state`, after `set_values`."""
        futures = [
            handle.call("load_state", state["workers"][str(rank)])
            for rank, handle in enumerate(self._handles)
        ]
        _results(futures, max(START_SECONDS, self._timeout_seconds))
        self.num_steps, self._begun = state["num_steps"], True
