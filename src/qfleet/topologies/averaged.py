"""Averaged: every worker learns in a copy of its own, and after each round the copies are merged.

A copy is a table, or a network's parameters, which are a table of one row: those have the equal merge alone.

A round is tau steps of every worker. The merge is the mean (equal), the mean weighted by what each worker's updates
have left of its old value (visits; Woo et al. 2023, arXiv 2305.10697), or the old table plus the sum of all changes
(delta). All three add in the order of the ranks: the same seed gives the same bits on every backend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.tabular.learner import Advance
from qfleet.tabular.merging import bounds_of, merge_by_visits, merge_deltas, merge_equal
from qfleet.topologies.checks import refuse_no_patience
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.sync_period import SyncEvery, SyncPeriod
from qfleet.topologies.table_team import (
    LearningTask,
    RoundsReport,
    TableTopology,
    TableWorker,
    TaskLearner,
    initial_tables,
    largest_change,
    new_table,
    rounds_budget,
)

Merge = Literal["equal", "visits", "delta"]

_PIECE_ENTRIES = 2**20
"""Entries merged at a time, so that messages need little memory beside the tables."""


@dataclass(frozen=True)
class AveragedConfig:
    """When and how copies are merged."""

    sync_every_steps: int = 0
    """Steps of each worker between two merges; 0: 16 for each table entry, within bounds."""
    sync_growth: float = 1.0
    """Every round is this many times as long as the one before."""
    sync_every: SyncEvery = "steps"
    """steps: as --sync-every-steps says; auto: from there to where merges take under a tenth of the time."""
    merge: Merge = "equal"
    """equal: the mean; visits: weighted by each worker's updates of the pair; delta: the sum of all changes."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if self.sync_every_steps < 0:
            raise QfleetError(f"sync_every_steps is {self.sync_every_steps}; it must not be negative")
        if not 1 <= self.sync_growth <= 10:
            raise QfleetError(f"sync_growth is {self.sync_growth}; it must be from 1 to 10")
        for name, known in (("merge", get_args(Merge)), ("sync_every", get_args(SyncEvery))):
            if getattr(self, name) not in known:
                raise QfleetError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if self.sync_every == "auto" and self.sync_growth != 1:
            raise QfleetError(
                f"sync_growth is {self.sync_growth} and sync_every auto, which chooses the rounds' length itself; "
                "give one of the two"
            )
        refuse_no_patience(self)

    def refuse_for_networks(self) -> None:
        """Raises QfleetError for what is of tables alone."""
        if self.merge != "equal":
            raise QfleetError(
                f"--merge {self.merge} is for tables, whose entries are updated one by one; networks take equal"
            )

    def first_steps(self, task: LearningTask) -> int:
        """Steps of each worker in the first round."""
        return min(rounds_budget(self.sync_every_steps, task), task.total_steps)

    def grown(self, steps: int, number: int, task: LearningTask) -> int:
        """Steps of each worker in round `number`, counted from 0, where the first would have `steps`."""
        return int(min(steps * self.sync_growth ** min(number, 1000), task.total_steps))


@final
class AveragedWorker(TableWorker[TaskLearner]):
    """Learns in its copy, merges, learns on."""

    def __init__(
        self, task: LearningTask, copies: NDArray[Any] | None, config: AveragedConfig, group: Group
    ) -> None:
        """`copies` are all workers', at the initial values; None where they cannot see one another's."""
        super().__init__(task, group.rank)
        self._group, self._config = group, config
        copy = new_table(task, task.shape, group.rank) if copies is None else copies[group.rank]
        self._table = task.make_table(copy, weighted=config.merge == "visits")
        self._learner = task.make_learner(group.rank, self._table, weighted=config.merge == "visits")
        self._values, self._log_weights = self._table.values.reshape(-1), self._table.log_weights.reshape(-1)
        self._base = np.empty(0)
        """The delta merge's old values, of the slices that this worker merges."""
        self._period = SyncPeriod(config.first_steps(task), task.total_steps, config.sync_every, group)

    def start(self) -> None:
        """Compiles, and begins the first episodes."""
        self._learner.start()
        self._remember_base()

    def _remember_base(self) -> None:
        if self._config.merge == "delta":
            pieces = _pieces(self._values.size, self._group.size)
            self._base = np.concatenate([self._values[piece[self.rank]] for piece in pieces])

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Rounds: tau steps, then a merge."""
        advance, change, rounds = self._learner.advance(0), None, 0
        while self.num_steps < until_steps and (
            change is None or until_change is None or change > until_change
        ):
            before = None if until_change is None else self._values.copy()
            with self._period.round():
                advance += self._round()
            rounds += 1
            if self._period.is_due:
                self._period.choose()
            change = None if before is None else largest_change(before, self._values)
        measured = self._period.measured() | self._learner.measured()
        return RoundsReport(advance, self.num_steps, rounds, change, measured)

    def _round(self) -> Advance:
        workers, left = self.task.num_workers, self.task.total_steps - self.num_steps
        steps = min(self._config.grown(self._period.steps, self._num_rounds, self.task) * workers, left)
        with self._period.computing():
            walked = self._learner.advance(self.share(steps))
        self.num_steps += steps
        self._num_rounds += 1
        self._merge()
        return walked

    def _merge(self) -> None:
        """Each worker merges its slices of the table, and gives them to all."""
        if self._group.size == 1 and self._config.merge != "delta":
            self._log_weights[...] = 0
            return
        offset = 0
        for pieces in _pieces(self._values.size, self._group.size):
            received = self._group.exchange([self._values[piece] for piece in pieces])
            if self._config.merge == "equal":
                merged = merge_equal(received)
            elif self._config.merge == "visits":
                received = [slices.copy() for slices in received]
                weights = self._group.exchange([self._log_weights[piece] for piece in pieces])
                merged = merge_by_visits(received, weights)
            else:
                base = self._base[offset : offset + received[0].size]
                merged = merge_deltas(base, received)
                base[...] = merged
                offset += merged.size
            for piece, whole in zip(pieces, self._group.exchange([merged] * self._group.size), strict=True):
                self._values[piece] = whole
        self._log_weights[...] = 0

    def values(self) -> NDArray[Any]:
        """(num_tables, num_states, num_actions): its copy; not to be written to."""
        return self._table.values

    def set_values(self, values: NDArray[Any]) -> None:
        """Writes into its copy."""
        self._table.values[...] = values

    def save_state(self) -> dict[str, Any]:
        """The walkers and the number of rounds; all copies are equal between two rounds."""
        state = {"num_steps": self.num_steps, "rounds": self._num_rounds, "period": self._period.save_state()}
        return state | {"learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self.num_steps, self._num_rounds = state["num_steps"], state["rounds"]
        self._period.load_state(state["period"])
        self._learner.load_state(state["learner"])
        self._remember_base()

    def close(self) -> None:
        """Closes its environments."""
        self._learner.close()


def _pieces(length: int, workers: int) -> list[list[slice]]:
    """The table in pieces, each cut into one slice for every worker."""
    cuts = bounds_of(length, max(1, -(-length // _PIECE_ENTRIES)))
    pieces = []
    for first, last in pairwise(cuts):
        bounds = [first + bound for bound in bounds_of(last - first, workers)]
        pieces.append([slice(low, high) for low, high in pairwise(bounds)])
    return pieces


@final
class Averaged(TableTopology):
    """As many copies as workers."""

    def __init__(
        self, fleet: Fleet, task: LearningTask, config: AveragedConfig, restarts: Restarts | None = None
    ) -> None:
        self._copies = initial_tables(fleet, task, task.num_workers) if fleet.shares_memory else None
        makers: Sequence[Any] = [
            partial(AveragedWorker, task, self._copies, config) for _ in range(task.num_workers)
        ]
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)

    def values(self) -> NDArray[Any]:
        """The first worker's copy: between rounds all are equal."""
        return self._one(0, "values") if self._copies is None else self._copies[0]

    def set_values(self, values: NDArray[Any]) -> None:
        """Writes into every copy."""
        if self._copies is None:
            self._all("set_values", values)
        else:
            self._copies[...] = values

    def _keep_tables(self) -> Any:
        """One copy, as all are equal."""
        return self._copies[0].copy() if self._copies is not None else self._workers.keep("values", 0)[0]

    def _kept_in(self, tables: Any) -> Sequence[Any]:
        return [tables] if self._copies is None else []
