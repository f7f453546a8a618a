"""What one worker's shard and the others tell one another: walkers, bootstrap values, requests for them.

Messages are flat int64 arrays; numbers that are none travel as their bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel
from qfleet.tabular.choosing import any_action, greedy
from qfleet.tabular.cut import Cut
from qfleet.tabular.learner import TableLearner
from qfleet.tabular.records import NO_ACTION, Shard
from qfleet.tabular.rules import learn, prospect
from qfleet.tabular.shards import FREE, enter, row_of

_LOAD_BLOCKS = 4096
_MET_PER_ROUND = 8192
_SMALLEST_HALO = 1024
_HEADER_FIELDS, _WALKER_FIELDS = 5, 6


@borrowing_kernel
def export_values(program, work, states, age, told):
    """What others bootstrap with on entering `states` (n,), into told (n, num_tables)."""
    for i in range(states.size):
        row = row_of(program, work, states[i])
        first = any_action(program, work, states[i], np.uint64(0))
        action, best = greedy(program, work, states[i], row, first)
        for table in range(told.shape[1]):
            told[i, table] = prospect(program, work, states[i], row, action, best, table, age)


@borrowing_kernel
def settle(program, work, walkers, answers):
    """Learns from steps across the border, now that the values of the actions chosen there are known (SARSA)."""
    for i in range(walkers.size):
        walker = walkers[i]
        row = work.walkers.origin[walker]
        if row >= 0:
            action, reward = work.walkers.origin_action[walker], work.walkers.origin_reward[walker]
            learn(program, work, walker, row, action, reward, answers[i], False, np.int64(0))
            work.walkers.origin[walker] = -1


@dataclass
class _Neighbour:
    """What is agreed with one other worker."""

    exported: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Own states whose values it is told, in the order in which it asked."""
    imported: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Its states whose values it tells."""


@dataclass(frozen=True)
class Arrived:
    """What an exchange brought from one worker."""

    walkers: NDArray[np.int64]
    """Numbers of the walkers that came, in order."""
    steps: int
    """Steps that it made in the round."""
    nanoseconds: int
    """For which it computed, if that is measured."""


def walkers_of(message: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the walkers that travel in a message."""
    return message[_HEADER_FIELDS : _HEADER_FIELDS + int(message[1])]


def num_told_of(message: NDArray[np.int64]) -> int:
    """How many values a message tells."""
    return int(message[3])


@final
class Border:
    """One worker's side of all its borders."""

    def __init__(self, learner: TableLearner, cut: Cut, rank: int, values: NDArray[Any]) -> None:
        self._learner, self._rank = learner, rank
        self._num_tables = learner.task.num_tables
        self.load_shift = max(0, (cut.num_states // _LOAD_BLOCKS).bit_length())
        self._keys, self._told = self._empty_halo(_SMALLEST_HALO)
        self._met = np.zeros(_MET_PER_ROUND, np.int64)
        self.load = np.zeros((cut.num_states >> self.load_shift) + 1, np.int64)
        """Steps made here, by block of positions; a sample stands for all."""
        self._unknown_value = learner.task.initial_value
        self.place(cut, values)

    def compile(self) -> None:
        """Compiles the kernels of exchanges, so that no round has to."""
        learner, nobody = self._learner, np.empty(0, np.int64)
        export_values(learner.program, learner.work(), nobody, 0, np.empty((0, self._num_tables)))
        if learner.task.rule == "sarsa":
            settle(learner.program, learner.work(), nobody, np.empty(0))

    def place(self, cut: Cut, values: NDArray[Any]) -> None:
        """Takes the rows of a cut; states that were asked for are asked for anew, of whoever owns them now."""
        self._cut = cut
        self._neighbours = [_Neighbour() for _ in range(cut.num_workers)]
        known = self._keys[self._keys != FREE]
        foreign = known[cut.owners(known) != self._rank] if known.size else known
        told = self._told_of(foreign)
        self._keys, self._told = self._empty_halo(2 * max(foreign.size, _SMALLEST_HALO))
        self._num_known = foreign.size
        enter(self._keys, self._told, foreign, told)
        self._to_request = np.sort(foreign)
        self._learner.place(self._shard(), self._learner.task.make_table(values))

    def forget_initial_values(self) -> None:
        """Steps to states that are not known yet teach nothing: by now their values have left the initial one."""
        self._unknown_value = np.nan

    def know(self, states: NDArray[np.int64]) -> None:
        """Enters foreign states that are known to lie across the border, with the initial value."""
        told = np.full((states.size, self._num_tables), self._learner.task.config.initial_value)
        self._keys, self._told = self._empty_halo(2 * max(states.size, _SMALLEST_HALO))
        self._num_known = states.size
        enter(self._keys, self._told, states, told)
        self._to_request = np.sort(states)
        self._learner.place(self._shard(), self._learner.table)

    def messages(self, steps: int, nanoseconds: int = 0) -> list[NDArray[np.int64]]:
        """One for each worker, after a round of `steps` steps: [header, walkers, requested states, told values].

        `nanoseconds` are those for which the round was computed, where others are to know.
        """
        learner = self._learner
        residents, walkers = learner.residents, learner.walkers
        leaving = residents[walkers.action[residents] == NO_ACTION]
        to = self._cut.owners(walkers.state[leaving])
        wanted = np.concatenate([self._to_request, np.sort(self._met[1 : self._met[0] + 1])])
        self._num_known += int(self._met[0])
        self._to_request, self._met[0] = wanted[:0], 0
        owners = self._cut.owners(wanted)
        learner.residents = residents[walkers.action[residents] != NO_ACTION]
        return [
            self._message(rank, (steps, nanoseconds), leaving[to == rank], wanted[owners == rank])
            for rank in range(self._cut.num_workers)
        ]

    def _message(
        self, rank: int, made: tuple[int, int], leaving: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        told = self._exports(rank)
        self._neighbours[rank].imported = np.concatenate([self._neighbours[rank].imported, wanted])
        header = np.array([made[0], leaving.size, wanted.size, told.size, made[1]])
        return np.concatenate([header, self._pack(leaving), wanted, told.reshape(-1).view(np.int64)])

    def _exports(self, rank: int) -> NDArray[np.float64]:
        states, learner = self._neighbours[rank].exported, self._learner
        told = np.empty((states.size, self._num_tables))
        if states.size:
            age = int(learner.walkers.age.max(initial=0))
            export_values(learner.program, learner.work(), states, age, told)
        return told

    def _pack(self, leaving: NDArray[np.int64]) -> NDArray[np.int64]:
        walkers = self._learner.walkers
        packed = np.empty((_WALKER_FIELDS, leaving.size), np.int64)
        packed[0], packed[1] = leaving, walkers.state[leaving]
        packed[2] = walkers.random[leaving].view(np.int64)
        packed[3], packed[4] = walkers.age[leaving], walkers.born[leaving]
        packed[5] = walkers.episode_return[leaving].view(np.int64)
        return packed.reshape(-1)

    def receive(self, messages: Sequence[NDArray[np.int64]]) -> list[Arrived]:
        """Takes in what all workers sent."""
        arrived = []
        for rank, message in enumerate(messages):
            steps, num_walkers, num_wanted, num_told, nanoseconds = message[:_HEADER_FIELDS].tolist()
            ends = np.cumsum([_HEADER_FIELDS, _WALKER_FIELDS * num_walkers, num_wanted, num_told])
            walkers = self._unpack(message[ends[0] : ends[1]].reshape(_WALKER_FIELDS, num_walkers))
            self._take_told(rank, message[ends[2] : ends[3]].view(np.float64))
            neighbour = self._neighbours[rank]
            neighbour.exported = np.concatenate([neighbour.exported, message[ends[1] : ends[2]]])
            arrived.append(Arrived(walkers, steps, nanoseconds))
        come = [part.walkers for part in arrived if part.walkers.size]
        if come:
            self._learner.residents = np.sort(np.concatenate([self._learner.residents, *come]))
        return arrived

    def _unpack(self, packed: NDArray[np.int64]) -> NDArray[np.int64]:
        walkers, come = self._learner.walkers, packed[0].copy()
        walkers.state[come], walkers.action[come] = packed[1], NO_ACTION
        walkers.random[come] = packed[2].view(np.uint64)
        walkers.age[come], walkers.born[come] = packed[3], packed[4]
        walkers.episode_return[come] = packed[5].view(np.float64)
        return come

    def _take_told(self, rank: int, told: NDArray[np.float64]) -> None:
        """Values come for the states that were asked for before this exchange, in that order."""
        if told.size:
            told = told.reshape(-1, self._num_tables)
            enter(self._keys, self._told, self._neighbours[rank].imported[: len(told)], told)

    def make_room(self) -> None:
        """Doubles the halo where it is half full, so that the kernel finds a slot fast."""
        if 2 * self._num_known > self._keys.size:
            known = self._keys[self._keys != FREE]
            told = self._told_of(known)
            self._keys, self._told = self._empty_halo(4 * self._num_known)
            enter(self._keys, self._told, known, told)
            self._learner.place(self._shard(), self._learner.table)

    def _shard(self) -> Shard:
        return Shard(
            first=self._cut.bounds[self._rank],
            num_rows=self._cut.num_rows(self._rank),
            positions=self._cut.positions,
            halo_keys=self._keys,
            halo_values=self._told,
            unknown_value=self._unknown_value,
            met=self._met,
            load=self.load,
            load_shift=self.load_shift,
        )

    def _told_of(self, states: NDArray[np.int64]) -> NDArray[np.float64]:
        """The halo's values of states that are in it, (n, num_tables)."""
        order = np.argsort(self._keys, kind="stable")
        return self._told[order[np.searchsorted(self._keys, states, sorter=order)]]

    def _empty_halo(self, room: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        size = 1 << (room - 1).bit_length()
        return np.full(size, FREE, np.int64), np.zeros((size, self._num_tables))

    def save_state(self) -> dict[str, Any]:
        """The halo, and who is told what."""
        return {
            "keys": self._keys,
            "told": self._told,
            "met": self._met,
            "to_request": self._to_request,
            "unknown_value": self._unknown_value,
            "load": self.load,
            "exported": {str(rank): item.exported for rank, item in enumerate(self._neighbours)},
            "imported": {str(rank): item.imported for rank, item in enumerate(self._neighbours)},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse, after `place` with the same cut."""
        self._keys, self._told = state["keys"].copy(), state["told"].copy()
        self._met[...], self.load[...] = state["met"], state["load"]
        self._unknown_value = state["unknown_value"]
        self._to_request, self._num_known = state["to_request"].copy(), int((self._keys != FREE).sum())
        for rank, neighbour in enumerate(self._neighbours):
            neighbour.exported = state["exported"][str(rank)].copy()
            neighbour.imported = state["imported"][str(rank)].copy()
        self._learner.place(self._shard(), self._learner.table)
