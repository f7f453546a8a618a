"""One worker of the topology partitioned: its rounds, and what happens between them."""

from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Group
from qfleet.tabular.border import Border, settle, walkers_of
from qfleet.tabular.cut import Cut, cut_by_load
from qfleet.tabular.learner import Advance, TableLearner, Task
from qfleet.topologies.mail import Mail
from qfleet.topologies.pace import Pace, even_portions, portions_by
from qfleet.topologies.partitioned_config import PartitionedConfig
from qfleet.topologies.sync_period import SyncPeriod
from qfleet.topologies.table_team import (
    RoundsReport,
    TableWorker,
    largest_change,
)
from qfleet.topologies.traffic import Traffic
from qfleet.topologies.visits import Visits

_TOLERATED_IMBALANCE = 1.05
_SHORT_ROUNDS, _SHORTER = 2, 64
"""Rounds after the cut is made or moved, and how much shorter they are: the new border is met, and heard of, soon."""


@final
class PartitionedWorker(TableWorker[TableLearner]):
    """Owns the rows of its states."""

    def __init__(self, task: Task, cut: Cut, config: PartitionedConfig, group: Group) -> None:
        super().__init__(task, group.rank)
        config.refuse_for(task.rule)
        self._learning, self._config, self._group, self._cut = task, config, group, cut
        values = self._new_rows(cut)
        self._learner = task.make_learner(group.rank, task.make_table(values))
        self._border = Border(self._learner, cut, group.rank, values)
        self._mail, self._traffic = Mail(group), Traffic(group.rank)
        first_steps = config.round_steps(task)
        self._period = SyncPeriod(first_steps, task.total_steps, config.sync_every, group)
        self._pace = Pace(group.size)
        self._rounds_since_move = self._heard_steps = self._promised_steps = 0
        self._visits = Visits(self._border, group)

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
        self._exchange()
        if self._group.size > 1:
            self._exchange()

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
                self._hold()
                own = np.array([largest_change(before, self._learner.table.values)])
                change = float(self._group.all_reduce(own, "max")[0])
        self._hold()
        if not self._steps_left():
            self._hear()
        rounds = self._num_rounds - first
        return RoundsReport(advance, self.num_steps, rounds, change, self._measured())

    def _round(self) -> Advance:
        """Walks until the budget is used or nobody is left, then tells and hears."""
        if not self._steps_left():  # but some may have been left over by those of whom has not been heard yet
            self._hear()
        if not self._steps_left():
            return Advance()
        budgets, is_short = self._budgets(), self._is_short()
        with self._period.round():
            with self._period.computing():
                walked = self._learner.advance(budgets[self.rank])
            messages = self._messages(walked.steps)
            if self._config.overlap:
                self._hear()  # what was told a round ago
            self._tell(messages, sum(budgets))
            if not self._config.overlap:
                self._hear()
        if is_short:
            self._period.forget()
        self._traffic.parked += walked.parked
        self._num_rounds += 1
        self._rounds_since_move += 1
        self._choose()
        return walked

    @property
    def _most_steps(self) -> int:
        """Of all workers' rounds."""
        return self._period.steps * self.task.num_workers

    def _steps_left(self) -> int:
        """Of the run, beside those heard of and those of a round that has not been heard of."""
        return self.task.total_steps - self._heard_steps - self._promised_steps

    def _is_short(self) -> bool:
        """Whether this round is one of the short ones; answers take twice as long where exchanges overlap."""
        return self._group.size > 1 and self._rounds_since_move < _SHORT_ROUNDS << self._config.overlap

    def _budgets(self) -> list[int]:
        """Each worker's part of what is left of the run: alike, or as fast as each is."""
        workers, most = self.task.num_workers, self._most_steps
        if self._is_short():
            most = max(workers, most // _SHORTER)
        steps = min(most, self._steps_left())
        if self._config.balance == "measured":
            return portions_by(self._pace.shares, steps, self._num_rounds)
        return even_portions(steps, workers, self._num_rounds)

    def _exchange(self) -> None:
        """Between rounds: tells, and hears at once."""
        self._tell(self._messages(0), 0)
        self._hear()

    def _messages(self, steps: int) -> list[NDArray[np.int64]]:
        """Walkers to their owners, values to who asked for them. A clock's numbers travel only where they are used."""
        is_measured = steps > 0 and self._config.balance == "measured"
        return self._border.messages(steps, self._period.computed_nanoseconds if is_measured else 0)

    def _tell(self, messages: list[NDArray[np.int64]], promised: int) -> None:
        """Sends them after a round for which `promised` steps were shared out."""
        self._traffic.note(messages)
        self._mail.send(messages)
        self._promised_steps = promised

    def _hear(self) -> None:
        """Takes in what was sent last; the walkers that came choose their actions."""
        messages = self._mail.take()
        if not messages:
            return
        arrived = self._border.receive(messages)
        self._border.make_room()
        steps = np.array([part.steps for part in arrived])
        self._pace.note(steps, np.array([part.nanoseconds for part in arrived]))
        self._traffic.note_round(arrived)
        self._heard_steps += int(steps.sum())
        self._promised_steps, self.num_steps = 0, self._heard_steps
        answers = self._learner.admit()
        if self._learning.rule == "sarsa" and self._group.size > 1:
            self._answer([part.walkers for part in arrived], answers)

    def _hold(self) -> None:
        """Nothing is under way from here on: the messages are there, though they are heard as late as ever."""
        lying = self._mail.hold()
        self.num_steps = self._heard_steps + sum(int(message[0]) for message in lying)

    def _answer(self, came: list[NDArray[np.int64]], answers: NDArray[np.float64]) -> None:
        """SARSA: tells what the actions chosen on arrival are worth, and learns from the steps that waited for it."""
        residents, left = self._learner.residents, [walkers_of(message) for message in self._mail.sent]
        replies = [answers[np.searchsorted(residents, walkers)] for walkers in came]
        for walkers, worth in zip(left, self._group.exchange(replies), strict=True):
            settle(self._learner.program, self._learner.work(), walkers, worth)

    def _choose(self) -> None:
        """Now and then: how long rounds are, and where the borders."""
        if self._period.is_due:
            self._hold()
            self._period.choose()
        if self._visits.is_due(self._num_rounds, self._heard_steps, self._most_steps):
            self._hold()
            self._balance()

    def _balance(self) -> None:
        """Looks at the visits since the last look, and moves the borders if they are uneven."""
        load = self._visits.look(self._cut, self._shares)
        self._visits.begin_again(self._num_rounds, self._heard_steps)
        fixed = self._config.balance == "none" or self._config.cut == "owners"
        if not fixed and self._visits.imbalance_now > _TOLERATED_IMBALANCE:
            self._move(cut_by_load(self._cut, load, self._border.load_shift, self._shares))

    @property
    def _shares(self) -> NDArray[np.float64] | None:
        """Of the visits, that each worker is to have; None: all alike."""
        return self._pace.shares if self._config.balance == "measured" else None

    def _move(self, cut: Cut) -> None:
        """Hands rows, their visits, and the walkers on them to their new owners."""
        if cut.bounds == self._cut.bounds:
            return
        self._hear()
        table, old = self._learner.table, self._cut
        values = self._regroup(table.values, old, cut)
        counts = (
            self._learning.counts_visits
        )  # not whether there are any: some have no rows, all must exchange
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
        if self._visits.is_known(self._heard_steps, self._most_steps):
            self._visits.look(self._cut, self._shares)
        walkers = max(1, self._num_rounds) * self._learning.walkers_per_worker
        measured = {
            "imbalance_before": self._visits.imbalance_before,
            "imbalance_after": self._visits.imbalance_now,
            "parked_fraction": self._traffic.parked / walkers,
            "num_rows": float(self._learner.shard.num_rows),
        }
        if (shares := self._shares) is not None:
            measured["slowest_speed"] = float(shares.min() * shares.size)
        return measured | self._traffic.measured(self._num_rounds) | self._period.measured()

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
            "heard_steps": self._heard_steps,
            "promised_steps": self._promised_steps,
            "mail": self._mail.save_state(),
            "traffic": self._traffic.save_state(),
            "pace": self._pace.save_state(),
            "period": self._period.save_state(),
            "visits": self._visits.save_state(),
            "border": self._border.save_state(),
            "learner": self._learner.save_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with it."""
        self.num_steps, self._num_rounds = state["num_steps"], state["rounds"]
        self._rounds_since_move = state["rounds_since_move"]
        self._heard_steps, self._promised_steps = state["heard_steps"], state["promised_steps"]
        self._mail.load_state(state["mail"])
        self._traffic.load_state(state["traffic"])
        self._pace.load_state(state["pace"])
        self._period.load_state(state["period"])
        self._visits.load_state(state["visits"])
        self._border.load_state(state["border"])
        self._learner.load_state(state["learner"])

    def begin_at(self, num_steps: int, rounds: int) -> None:
        """The same; by now the values across the borders have left the initial one."""
        super().begin_at(num_steps, rounds)
        self._heard_steps = num_steps
        self._border.forget_initial_values()

    def close(self) -> None:
        """There is nothing to free."""
