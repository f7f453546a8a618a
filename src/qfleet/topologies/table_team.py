"""What topologies of tables have in common: workers that are told how far to go, and tables that are read."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import FleetError, QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.fleet_view import FleetView
from qfleet.memory import readable_bytes
from qfleet.tabular.learner import Advance
from qfleet.tabular.records import Table
from qfleet.topologies.metered_workers import MeteredMaker
from qfleet.topologies.restarts import Restarts, Snapshot
from qfleet.topologies.rounds_account import RoundsAccount
from qfleet.topologies.table_learning import RoundsReport, TableLearning
from qfleet.topologies.workers import START_SECONDS, Workers


class TaskLearner(Protocol):
    """One worker's table and walkers, compiled or stepped in Python."""

    table: Table

    def start(self) -> None:
        """Puts the walkers into their first states."""
        ...

    def begin_at(self, num_steps: int) -> None:
        """Before `start`: all walkers have made so many steps; the episodes that begin are others than the first."""
        ...

    def advance(self, budget: int) -> Advance:
        """Makes `budget` steps."""
        ...

    def sample_pairs(self) -> NDArray[np.int64]:
        """State-action pairs the walkers stand at, as numbers state * num_actions + action."""
        ...

    def measured(self) -> dict[str, float]:
        """What it measures beside, by name."""
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

    @property
    def counts_visits(self) -> bool:
        """Whether updates are counted for every pair."""
        ...

    @property
    def can_pause_anywhere(self) -> bool:
        """Whether saving a worker's state changes nothing of what it does next."""
        ...

    @property
    def round_steps(self) -> int:
        """Steps of each worker's round, if nothing else is asked for."""
        ...

    def make_table(
        self, values: NDArray[Any], *, weighted: bool = False, visits: NDArray[np.uint32] | None = None
    ) -> Table:
        """A table around values that exist."""
        ...

    def make_learner(self, worker: int, table: Table, *, weighted: bool = False) -> TaskLearner:
        """The learner of one worker."""
        ...


Learner = TypeVar("Learner", bound=TaskLearner)


class TableWorker(ABC, Generic[Learner]):
    """One member of a topology of tables, wherever it lives."""

    _learner: Learner

    def __init__(self, task: LearningTask, rank: int) -> None:
        self.task, self.rank = task, rank
        self.num_steps = 0
        """Steps of all workers."""
        self._num_rounds = 0

    @abstractmethod
    def start(self) -> None:
        """Compiles, and puts the walkers into their first states."""

    def begin_at(self, num_steps: int, rounds: int) -> None:
        """Before `start`: all workers, of whom there were others, have made so many steps, in so many rounds."""
        self.num_steps, self._num_rounds = num_steps, rounds
        self._learner.begin_at(num_steps)

    def set_visits(self, visits: NDArray[np.uint32]) -> None:
        """Takes how often the pairs of its rows were updated."""
        self._learner.table.visits[...] = visits

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
    """Steps of each worker's round: as asked, or as suits the task, but a twentieth of the run at most."""
    return asked or max(1, min(task.round_steps, task.total_steps // (20 * task.num_workers)))


def largest_change(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Between two tables of one shape."""
    return float(
        max((np.abs(new - old).max(initial=0.0) for old, new in zip(before, after, strict=True)), default=0.0)
    )


def new_table(task: LearningTask, shape: tuple[int, int, int], rank: int) -> NDArray[Any]:
    """A worker's own memory, at the initial values; raises QfleetError where the worker may not have so much."""
    try:
        return np.full(shape, task.initial_value, task.dtype)
    except MemoryError as error:
        needed = readable_bytes(int(np.prod(shape)) * task.dtype.itemsize)
        raise QfleetError(
            f"worker {rank} has no room for the {needed} of its {shape[1]:,} rows; partitioned with more --workers, "
            "and --table-type float32, need less of each"
        ) from error


def initial_tables(fleet: Fleet, task: LearningTask, *copies: int) -> NDArray[Any]:
    """(*copies, num_tables, num_states, num_actions) in memory that all workers see, at the initial values."""
    tables = fleet.shared_array((*copies, *task.shape), task.dtype)
    if task.initial_value:
        tables[...] = task.initial_value
    return tables


class TableTopology(TableLearning):
    """The driver's view: starts the workers, tells them how far to go, reads their tables.

    Where workers can be replaced, a call that fails as one of them is gone or hangs is made again: by new workers,
    which have been brought to where the old ones were by way of the last snapshot.
    """

    def __init__(
        self,
        fleet: Fleet,
        task: LearningTask,
        makers: Sequence[Callable[[Group], TableWorker[Any]]],
        stall_timeout_seconds: float,
        restarts: Restarts | None = None,
    ) -> None:
        """`restarts`: how often lost workers are replaced; None for never."""
        self._task, self._start_seconds = task, max(START_SECONDS, stall_timeout_seconds)
        self._workers = Workers(fleet, [MeteredMaker(make) for make in makers], stall_timeout_seconds)
        self.account = RoundsAccount(len(makers), restarts)
        self._restarts = restarts
        self._snapshot: Snapshot | None = None
        self._longest_call_steps = 1
        self.num_steps = 0
        """Steps of all workers."""
        self._begun = self._is_recovering = False

    def prepare(self) -> None:
        """Lets the workers compile and begin, if they have not; from then on lost ones can be replaced."""
        if not self._begun:
            self._all("start", timeout_seconds=self._start_seconds)
            self._begun = True
        self._take_snapshot_if_due()

    def advance(self, until_steps: int, until_change: float | None = None) -> list[RoundsReport]:
        """All workers' rounds until `until_steps` steps, of those of the run, are made in all."""
        self.prepare()
        reports = self._all("advance", min(until_steps, self._task.total_steps), until_change)
        made = self._steps_of(reports)
        self._longest_call_steps = max(self._longest_call_steps, made - self.num_steps)
        self.account.note(reports, made - self.num_steps)
        self.num_steps = made
        return reports

    def view(self) -> FleetView | None:
        """Of workers, and their exchanges."""
        return self.account.looks.view()

    def role_metrics(self) -> dict[str, float]:
        """The same for the metrics."""
        return self.account.looks.metrics()

    @staticmethod
    def _steps_of(reports: list[RoundsReport]) -> int:
        return reports[0].num_steps

    def begin_at(
        self, num_steps: int, rounds: int, visits_of: Callable[[NDArray[np.int64]], NDArray[np.uint32]]
    ) -> None:
        """Goes on from a run with another number of workers: its values were put back already, episodes begin anew.

        `visits_of` gives visits (num_tables, n, num_actions) of states (n,): those of one worker, or of all where
        they share a table.
        """
        self._all("begin_at", num_steps, rounds)
        if self._task.counts_visits:
            self._set_visits(visits_of)
        self.num_steps, self._snapshot = num_steps, None

    def _set_visits(self, visits_of: Callable[[NDArray[np.int64]], NDArray[np.uint32]]) -> None:
        self._all("set_visits", visits_of(np.arange(self._task.shape[1])))

    # Calls

    def _one(self, rank: int, method: str, *arguments: Any) -> Any:
        """One call of one worker."""
        return self._lasting(lambda: self._workers.one(rank, method, *arguments))

    def _all(self, method: str, *arguments: Any, timeout_seconds: float | None = None) -> list[Any]:
        """One call of every worker at the same time."""
        return self._lasting(lambda: self._workers.all(method, *arguments, timeout_seconds=timeout_seconds))

    def _lasting(self, call: Callable[[], Any]) -> Any:
        """Makes calls again after workers were lost, if there is a way back."""
        while True:
            try:
                return call()
            except FleetError as error:
                if self._snapshot is None or self._is_recovering:
                    raise
                self._recover(error, self._snapshot)

    # Faults

    def _take_snapshot_if_due(self) -> None:
        if self._restarts is None or not self._restarts.allowed or not self._workers.can_be_replaced:
            return
        if self._snapshot is None or self._is_snapshot_due():
            self._lasting(lambda: self._take_snapshot(self.num_steps))

    def _is_snapshot_due(self) -> bool:
        assert self._restarts is not None, "there are snapshots"
        return self._task.can_pause_anywhere and self._restarts.is_snapshot_due()

    def _take_snapshot(self, num_steps: int) -> None:
        assert self._restarts is not None, "there are snapshots"
        old, started = self._snapshot, time.perf_counter()
        states = self._workers.keep("save_state", *range(len(self._workers)))
        self._snapshot = Snapshot(num_steps, self._keep_tables(), states)
        self._restarts.note_snapshot(time.perf_counter() - started)
        if old is not None:
            self._workers.forget([*old.states, *self._kept_in(old.tables)])

    def _recover(self, error: FleetError, snapshot: Snapshot) -> None:
        """Puts new workers where the lost ones were: rounds since the snapshot are made again, with the same bits."""
        assert self._restarts is not None, "there is a snapshot"
        self._is_recovering = True
        try:
            while True:
                self._restarts.spend(error, snapshot.num_steps)
                self._restarts.want_snapshot()
                try:
                    self._workers.replace()
                    return self._go_back_and_on(snapshot)
                except FleetError as another:
                    error, snapshot = another, self._snapshot or snapshot
        finally:
            self._is_recovering = False

    def _go_back_and_on(self, snapshot: Snapshot) -> None:
        """To where the snapshot was taken, and from there, in calls no longer than others were, to where they were.

        A snapshot is taken on the way: however often workers are lost, each time they come further.
        """
        self._workers.all("start", timeout_seconds=self._start_seconds)
        self._give_tables(snapshot.tables)
        self._workers.each("load_state", [(state,) for state in snapshot.states], self._start_seconds)
        made = snapshot.num_steps
        while made < self.num_steps:
            until = min(self.num_steps, made + self._longest_call_steps)
            made = self._steps_of(self._workers.all("advance", until, None))
            if self._is_snapshot_due():
                self._take_snapshot(made)

    def forget_snapshot(self) -> None:
        """What the workers hold was changed by other means than `advance`."""
        self._snapshot = None

    def _keep_tables(self) -> Any:
        """The values, for a snapshot; here in the driver's memory."""
        return self.values().copy()

    def _give_tables(self, tables: Any) -> None:
        """Puts back what `_keep_tables` gave."""
        self.set_values(tables)

    def _kept_in(self, tables: Any) -> Sequence[Any]:
        """What of `_keep_tables` is to be forgotten."""
        return ()

    def end(self) -> None:
        """Ends the workers at once, where they can be replaced."""
        self._workers.end()

    def close(self) -> None:
        """Lets the workers free what they hold."""
        self._workers.close()

    # Values and states

    def save_tables(self) -> dict[str, Any]:
        """The values: {"values": (num_tables, num_states, num_actions)}, or shards of it."""
        return {"values": self.values()}

    def load_tables(self, state: dict[str, Any]) -> None:
        """Takes what `save_tables` returned."""
        self.set_values(state["values"])

    def save_state(self) -> dict[str, Any]:
        """Everything but the values."""
        states = self._all("save_state")
        if not self._task.can_pause_anywhere:
            self._snapshot = None  # what comes before this can no longer be repeated
        return {
            "num_steps": self.num_steps,
            "workers": {str(rank): state for rank, state in enumerate(states)},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `save_state`, after `set_values`."""
        states = [(state["workers"][str(rank)],) for rank in range(len(self._workers))]
        self._workers.each("load_state", states, self._start_seconds)
        self.num_steps, self._begun, self._snapshot = state["num_steps"], True, None
