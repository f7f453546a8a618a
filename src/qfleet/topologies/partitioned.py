"""Partitioned: every worker owns some of the states, and their rows of the table are nowhere else.

A step from an own state to another worker's bootstraps with what that worker last told of it, and the walker moves
there when the round ends:

    Q_k(s, a) <- Q_k(s, a) + alpha [r + gamma max_a' Q_k'(s', a') - Q_k(s, a)]        s in S_k, s' in S_k'

The whole table is the workers' tables one after the other: merging loses nothing. What is told are bootstrap
values, one number a state, never rows; states that a worker meets across the border for the first time count as
the initial value, and are told from the next exchange on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Group
from qfleet.tabular.border import Border, settle
from qfleet.tabular.cut import Cut, cut_by_load, imbalance
from qfleet.tabular.learner import Advance, TableLearner, Task
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.table_team import (
    RoundsReport,
    TableTopology,
    TableWorker,
    largest_change,
)

CutName = Literal["blocks", "graph", "owners"]
Balance = Literal["counts", "none"]

_ROUND_STEPS = 2**20
_FIRST_LOOK_ROUNDS = 16
"""Rounds before the first look at how even the visits are; between two looks there are twice as many each time."""
_TOLERATED_IMBALANCE = 1.05
_SHORT_ROUNDS, _SHORTER = 2, 64
"""Rounds after the cut is made or moved, and how much shorter they are: the new border is met, and heard of, soon."""


@dataclass(frozen=True)
class PartitionedConfig:
    """Who owns what, and when workers tell one another."""

    sync_every_steps: int = 0
    """Most steps of each worker between two exchanges; 0: 1048576, and fewer in runs of fewer than 20 such rounds."""
    cut: CutName = "blocks"
    """blocks of states in their order; graph: few transitions across borders (METIS); owners: the file --owners."""
    owners: str = ""
    """A .npy file with the worker of each state, for the cut owners."""
    balance: Balance = "counts"
    """counts: borders move to where visits are even, with cut blocks and graph; none: they stay."""
    keep_shards: bool = False
    """Never put the table together: it is saved in shards, and looked up where it is needed."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if self.sync_every_steps < 0:
            raise QfleetError(f"sync_every_steps is {self.sync_every_steps}; it must not be negative")
        for name, known in (("cut", get_args(CutName)), ("balance", get_args(Balance))):
            if getattr(self, name) not in known:
                raise QfleetError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if (self.cut == "owners") != bool(self.owners):
            raise QfleetError("--cut owners and --owners FILE go together: give both or neither")
        if not self.stall_timeout_seconds > 0:
            raise QfleetError(f"stall_timeout_seconds is {self.stall_timeout_seconds}; it must be above 0")

    def round_steps(self, task: Task) -> int:
        """Most steps of each worker in a round."""
        if self.sync_every_steps:
            return self.sync_every_steps
        return max(1, min(_ROUND_STEPS, task.total_steps // (20 * task.num_workers)))


@final
class PartitionedWorker(TableWorker[TableLearner]):
    """Owns the rows of its states."""

    def __init__(self, task: Task, cut: Cut, config: PartitionedConfig, group: Group) -> None:
        super().__init__(task, group.rank)
        self._learning, self._config, self._group, self._cut = task, config, group, cut
        values = self._new_rows(cut)
        self._learner = task.make_learner(group.rank, task.make_table(values))
        self._border = Border(self._learner, cut, group.rank, values)
        self._rounds_since_move = 0
        self._sent_bytes = self._parked = self._made = 0
        self._imbalance_before = self._imbalance_now = 1.0
        self._load_before, self._looked_at = self._border.load.copy(), (0, 0)
        """Visits, rounds and steps at the last look at how even they are."""
        self._num_looks = 0

    def _new_rows(self, cut: Cut) -> NDArray[Any]:
        num_tables, _, num_actions = self._learning.shape
        shape = (num_tables, cut.num_rows(self.rank), num_actions)
        return np.full(shape, self._learning.initial_value, self._learning.dtype)

    def start(self) -> None:
        """Begins the first episodes, wherever they begin."""
        self._learner.begin()
        self._border.compile()
        self._meet()
        self._learner.advance(0)  # compiles the kernel

    def _meet(self) -> None:
        """Sends walkers to where they belong, and asks for the values across the border; then hears them."""
        successors = self._learning.world.successors
        if successors is not None and self._group.size > 1:
            pieces = map(successors, self._cut.states_in_pieces(self.rank))
            foreign = [piece[self._cut.owners(piece) != self.rank] for piece in pieces]
            self._border.know(np.unique(np.concatenate([np.empty(0, np.int64), *foreign])))
        self._exchange(0)
        if self._group.size > 1:
            self._exchange(0)

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        """Rounds. The change is watched over as many steps as a round has at most, since rounds may end early."""
        advance, change, first = self._learner.advance(0), None, self._num_rounds
        span = 1 if until_change is None else self._most_steps
        while self.num_steps < until_steps and (
            change is None or until_change is None or change > until_change
        ):
            before = None if until_change is None else self._learner.table.values.copy()
            cut, enough = self._cut, min(self.num_steps + span, self.task.total_steps)
            while self.num_steps < enough:
                advance += self._round()
            change = None
            if before is not None and cut is self._cut:
                own = np.array([largest_change(before, self._learner.table.values)])
                change = float(self._group.all_reduce(own, "max")[0])
        rounds = self._num_rounds - first
        return RoundsReport(advance, self.num_steps, rounds, change, self._measured())

    def _round(self) -> Advance:
        """Walks until the budget is used or nobody is left, then tells and hears."""
        walked = self._learner.advance(self._budget())
        self._made += walked.steps
        self._parked += walked.parked
        self._exchange(walked.steps)
        self._num_rounds += 1
        self._rounds_since_move += 1
        # Rounds may end early: a few visits say nothing of where most are.
        seen = self._num_rounds - self._looked_at[0], self.num_steps - self._looked_at[1]
        if (
            self._group.size > 1
            and seen[0] >= _FIRST_LOOK_ROUNDS << self._num_looks
            and seen[1] >= self._most_steps
        ):
            self._balance()
        return walked

    @property
    def _most_steps(self) -> int:
        """Of all workers' rounds."""
        return self._config.round_steps(self._learning) * self.task.num_workers

    def _budget(self) -> int:
        """This worker's part of what is left of the run; odd steps go round, so that they reach who can make them."""
        workers, most = self.task.num_workers, self._most_steps
        if self._rounds_since_move < _SHORT_ROUNDS and workers > 1:
            most = max(workers, most // _SHORTER)
        steps = min(most, self.task.total_steps - self.num_steps)
        return steps // workers + ((self.rank + self._num_rounds) % workers < steps % workers)

    def _exchange(self, steps: int) -> None:
        """Walkers to their owners, values to who asked for them; then those that came choose their actions."""
        messages = self._border.messages(steps)
        left = [_walkers_of(message) for message in messages]
        self._sent_bytes += sum(message.nbytes for rank, message in enumerate(messages) if rank != self.rank)
        arrived = self._border.receive(self._group.exchange(messages))
        self._border.make_room()
        self.num_steps += sum(part.steps for part in arrived)
        answers = self._learner.admit()
        if self._learning.rule == "sarsa" and self._group.size > 1:
            self._answer([part.walkers for part in arrived], answers, left)

    def _answer(
        self, came: list[NDArray[np.int64]], answers: NDArray[np.float64], left: list[NDArray[np.int64]]
    ) -> None:
        """SARSA: tells what the actions chosen on arrival are worth, and learns from the steps that waited for it."""
        residents = self._learner.residents
        replies = [answers[np.searchsorted(residents, walkers)] for walkers in came]
        for walkers, worth in zip(left, self._group.exchange(replies), strict=True):
            settle(self._learner.program, self._learner.work(), walkers, worth)

    def _balance(self) -> None:
        """Looks at the visits since the last look, and moves the borders if they are uneven."""
        load = self._look()
        self._load_before = self._border.load.copy()
        self._looked_at = self._num_rounds, self.num_steps
        self._num_looks += 1
        fixed = self._config.balance == "none" or self._config.cut == "owners"
        if not fixed and self._imbalance_now > _TOLERATED_IMBALANCE:
            self._move(cut_by_load(self._cut, load, self._border.load_shift))

    def _look(self) -> NDArray[np.int64]:
        """All workers' visits since the last look that borders could move after, by block of positions."""
        load = self._group.all_reduce(self._border.load - self._load_before, "sum")
        self._imbalance_now = imbalance(self._cut, load, self._border.load_shift)
        if not self._num_looks:
            self._imbalance_before = self._imbalance_now
        return load

    def _move(self, cut: Cut) -> None:
        """Hands rows, their visits, and the walkers on them to their new owners."""
        if cut.bounds == self._cut.bounds:
            return
        table, old = self._learner.table, self._cut
        values = self._regroup(table.values, old, cut)
        counts = (
            self._learning.counts_visits
        )  # not whether there are any: some have no rows, and all must exchange
        visits = self._regroup(table.visits, old, cut) if counts else table.visits
        self._cut = cut
        self._border.forget_initial_values()
        self._border.place(cut, values)
        self._learner.table.visits[...] = visits
        here = self._learner.residents
        gone = here[cut.owners(self._learner.walkers.state[here]) != self.rank]
        self._learner.forget()
        self._learner.leave(gone)
        self._rounds_since_move = 0
        self._meet()

    def _regroup(self, rows: NDArray[Any], old: Cut, new: Cut) -> NDArray[Any]:
        """The rows (num_tables, num_rows, num_actions) of the new cut."""
        first = old.bounds[self.rank]
        clipped = [min(max(bound - first, 0), rows.shape[1]) for bound in new.bounds]
        parts = [np.ascontiguousarray(rows[:, low:high]) for low, high in pairwise(clipped)]
        return np.concatenate(self._group.exchange(parts), axis=1)

    def _measured(self) -> dict[str, float]:
        if self._group.size > 1 and self.num_steps - self._looked_at[1] >= self._most_steps:
            self._look()
        rounds = max(1, self._num_rounds)
        return {
            "imbalance_before": self._imbalance_before,
            "imbalance_after": self._imbalance_now,
            "parked_fraction": self._parked / max(1, rounds * self._learning.walkers_per_worker),
            "sent_bytes_per_round": self._sent_bytes / rounds,
            "num_rows": float(self._learner.shard.num_rows),
        }

    def rows(self) -> NDArray[Any]:
        """(num_tables, num_rows, num_actions): its own; not to be written to."""
        return self._learner.table.values

    def bounds(self) -> list[int]:
        """The cut's, as it is now."""
        return list(self._cut.bounds)

    def look_up(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(num_tables, n, num_actions): the rows of own states (n,)."""
        return self._learner.table.values[:, self._cut.positions_of(states) - self._cut.bounds[self.rank]]

    def set_rows(self, bounds: list[int], values: NDArray[Any]) -> None:
        """Takes the rows of its part of a cut with these bounds."""
        self._cut = Cut(tuple(bounds), self._cut.positions)
        self._border.place(self._cut, values.copy())

    def save_state(self) -> dict[str, Any]:
        """Everything but the rows."""
        return {
            "num_steps": self.num_steps,
            "rounds": self._num_rounds,
            "rounds_since_move": self._rounds_since_move,
            "numbers": np.array([self._sent_bytes, self._parked, self._made]),
            "imbalances": np.array([self._imbalance_before, self._imbalance_now]),
            "load_before": self._load_before,
            "looked_at": list(self._looked_at),
            "looks": self._num_looks,
            "border": self._border.save_state(),
            "learner": self._learner.save_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with it."""
        self.num_steps, self._num_rounds = state["num_steps"], state["rounds"]
        self._rounds_since_move = state["rounds_since_move"]
        self._sent_bytes, self._parked, self._made = state["numbers"].tolist()
        self._imbalance_before, self._imbalance_now = state["imbalances"].tolist()
        self._load_before[...] = state["load_before"]
        self._looked_at = state["looked_at"][0], state["looked_at"][1]
        self._num_looks = state["looks"]
        self._border.load_state(state["border"])
        self._learner.load_state(state["learner"])

    def begin_at(self, num_steps: int, rounds: int) -> None:
        """The same; by now the values across the borders have left the initial one."""
        super().begin_at(num_steps, rounds)
        self._border.forget_initial_values()

    def close(self) -> None:
        """There is nothing to free."""


def _walkers_of(message: NDArray[np.int64]) -> NDArray[np.int64]:
    return message[4 : 4 + int(message[1])]


@final
class Partitioned(TableTopology):
    """One table in as many shards as workers."""

    def __init__(
        self,
        fleet: Fleet,
        task: Task,
        cut: Cut,
        config: PartitionedConfig,
        restarts: Restarts | None = None,
    ) -> None:
        makers: Sequence[Any] = [
            partial(PartitionedWorker, task, cut, config) for _ in range(task.num_workers)
        ]
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)
        self._first_cut, self._keeps_shards = cut, config.keep_shards

    def cut(self) -> Cut:
        """Who owns what now."""
        return Cut(tuple(self._one(0, "bounds")), self._first_cut.positions)

    def values(self) -> NDArray[Any]:
        """The shards one after the other."""
        cut, rows = self.cut(), np.concatenate(self._all("rows"), axis=1)
        return rows[:, cut.positions] if cut.positions.size else rows

    def look_up(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(num_tables, n, num_actions): rows of any states (n,), from whoever owns them."""
        owners = self.cut().owners(states)
        found = None
        for rank in np.unique(owners).tolist():
            chosen = owners == rank
            rows = self._one(rank, "look_up", states[chosen])
            if found is None:
                found = np.empty((rows.shape[0], len(states), rows.shape[2]), rows.dtype)
            found[:, chosen] = rows
        assert found is not None, "states is empty"
        return found

    def set_values(self, values: NDArray[Any]) -> None:
        """Gives every worker its rows."""
        self.set_rows(lambda states: values[:, states])

    def set_rows(self, rows_of: Callable[[NDArray[np.int64]], NDArray[Any]]) -> None:
        """The same from a function that looks rows (num_tables, n, num_actions) of states (n,) up."""
        self._distribute(rows_of, self.cut())

    def _distribute(self, rows_of: Callable[[NDArray[np.int64]], NDArray[Any]], cut: Cut) -> None:
        """One worker's rows at a time, so that there is no second table."""
        for rank in range(cut.num_workers):
            self._set_rows(rank, cut.bounds, rows_of(cut.states(rank)))

    def _set_rows(self, rank: int, bounds: Sequence[int], rows: NDArray[Any]) -> None:
        self._one(rank, "set_rows", list(bounds), np.ascontiguousarray(rows))

    def save_tables(self) -> dict[str, Any]:
        """The shards, in the order of the ranks, and who owns what; on threads they are the workers' own arrays."""
        cut = self.cut()
        shards = {str(rank): self._one(rank, "rows") for rank in range(cut.num_workers)}
        cut_state = {"bounds": list(cut.bounds), "positions": cut.positions}
        return {"shards": shards, "kept_apart": self._keeps_shards, **cut_state}

    def load_tables(self, state: dict[str, Any]) -> None:
        """Takes what `save_tables` returned."""
        for rank in range(len(state["bounds"]) - 1):
            self._set_rows(rank, state["bounds"], state["shards"][str(rank)])

    def _keep_tables(self) -> Any:
        """The bounds of the cut, and what stands for each worker's rows."""
        ranks = range(len(self._workers))
        return self._workers.one(0, "bounds"), self._workers.keep("rows", *ranks)

    def _give_tables(self, tables: Any) -> None:
        bounds, kept = tables
        self._workers.each("set_rows", [(bounds, rows) for rows in kept])

    def _kept_in(self, tables: Any) -> Sequence[Any]:
        return tables[1]

    def _set_visits(self, visits_of: Callable[[NDArray[np.int64]], NDArray[np.uint32]]) -> None:
        """To each worker those of its rows."""
        cut = self.cut()
        for rank in range(cut.num_workers):
            self._one(rank, "set_visits", visits_of(cut.states(rank)))
