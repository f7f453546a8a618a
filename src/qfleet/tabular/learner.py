"""One worker's table and walkers, and the kernel that moves both."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import NonFiniteError, QfleetError
from qfleet.kernels import mix
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.program import Program, Rows, Rule
from qfleet.tabular.records import (
    EPISODE_STEPS,
    EPISODES,
    NO_ACTION,
    PARKED,
    STEPS,
    Constants,
    History,
    Lanes,
    Shard,
    Table,
    Totals,
    Walkers,
    Work,
)
from qfleet.tabular.transitions import Transitions, act
from qfleet.tabular.walk import NUM_LANES, admit, begin, walk
from qfleet.worlds.world import World

CACHED_BYTES = 2**20
"""Tables up to this size stay in a core's own cache, so that asking for memory ahead is only work."""

_GOLDEN = 0x9E3779B97F4A7C15
SHORTEST_ROUND_STEPS, LONGEST_ROUND_STEPS = 2**18, 2**25
FOREVER = 2**62
"""The time limit of an episode that has none."""


@dataclass(frozen=True)
class Task:
    """What a worker is to learn, and how: the same for all workers of a run."""

    world: World
    rule: Rule
    config: TabularConfig
    seed: int
    total_steps: int
    """Steps of the whole run, which exploration schedules refer to."""
    num_workers: int = 1

    @property
    def num_tables(self) -> int:
        """2 for double Q-learning, else 1."""
        return 2 if self.rule == "double-q-learning" else 1

    @property
    def walkers_per_worker(self) -> int:
        """Episodes that each worker plays at the same time."""
        return self.config.num_walkers(self.world.num_states)

    @property
    def num_walkers(self) -> int:
        """Those of all workers."""
        return self.walkers_per_worker * self.num_workers

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole table: (num_tables, num_states, num_actions)."""
        return self.num_tables, self.world.num_states, self.world.num_actions

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the table."""
        return self.config.dtype

    @property
    def initial_value(self) -> float:
        """Of every entry."""
        return self.config.initial_value

    @property
    def counts_visits(self) -> bool:
        """Whether updates are counted for every pair."""
        return self.config.learning_rate_schedule != "constant"

    @property
    def can_pause_anywhere(self) -> bool:
        """Walkers are saved as they stand."""
        return True

    @property
    def round_steps(self) -> int:
        """See `fair_round_steps`."""
        return fair_round_steps(self.shape)

    def make_table(
        self, values: NDArray[Any], *, weighted: bool = False, visits: NDArray[np.uint32] | None = None
    ) -> Table:
        """A table around values (num_tables, rows, num_actions) that exist."""
        if visits is None:
            visits = np.zeros(values.shape if self.counts_visits else (0, 0, 0), np.uint32)
        return Table(values, visits, np.zeros(values.shape if weighted else (0, 0, 0), np.float64))

    def make_learner(self, worker: int, table: Table, *, weighted: bool = False) -> "TableLearner":
        """The learner of one worker."""
        return TableLearner(self, worker, table, weighted=weighted)

    def constants(self) -> Constants:
        """The kernel's numbers."""
        world = self.world
        steps = world.max_episode_steps or FOREVER
        span = self.config.exploration_span(self.total_steps) / self.num_walkers
        return make_constants(self.config, self.rule, world.num_states, world.num_actions, span, steps)

    def program(self, num_rows: int, *, weighted: bool = False, rows: Rows = "whole") -> Program:
        """What the kernel is compiled for."""
        table_bytes = self.num_tables * num_rows * self.world.num_actions * self.config.dtype.itemsize
        return Program(
            world=self.world.key,
            rule=self.rule,
            exploration=self.config.exploration,
            rate=self.config.learning_rate_schedule,
            masked=self.world.allowed is not None,
            weighted=weighted,
            rows=rows,
            prefetched=table_bytes > CACHED_BYTES,
        )


@dataclass(frozen=True)
class Advance:
    """What a span of learning came to."""

    steps: int = 0
    episodes: int = 0
    episode_steps: int = 0
    """Of the episodes that ended."""
    returns: float = 0.0
    """Sum over the episodes that ended."""
    parked: int = 0
    """Walkers that crossed a border."""

    def means(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean return and mean length of the episodes that ended, each once; empty if none did."""
        if not self.episodes:
            return (), ()
        return (self.returns / self.episodes,), (self.episode_steps / self.episodes,)

    def __add__(self, other: "Advance") -> "Advance":
        return Advance(
            self.steps + other.steps,
            self.episodes + other.episodes,
            self.episode_steps + other.episode_steps,
            self.returns + other.returns,
            self.parked + other.parked,
        )


def fair_round_steps(shape: tuple[int, int, int]) -> int:
    """Of each worker of a table (num_tables, num_states, num_actions): 16 for each of its entries, within bounds.

    Fewer would spend more than a few per cent of the time on merging; more make no merge worth waiting for.
    """
    return max(min(16 * shape[1] * shape[2], LONGEST_ROUND_STEPS), SHORTEST_ROUND_STEPS)


def whole(num_states: int) -> Shard:
    """The shard that is the whole table."""
    no_numbers = np.empty(0, np.int64)
    return Shard(
        first=0,
        num_rows=num_states,
        positions=np.empty(0, np.int32),
        halo_keys=no_numbers,
        halo_values=np.empty((0, 1)),
        unknown_value=0.0,
        met=no_numbers,
        load=no_numbers,
        load_shift=0,
    )


def make_constants(
    config: TabularConfig,
    rule: Rule,
    num_states: int,
    num_actions: int,
    exploration_steps: float,
    max_episode_steps: int,
) -> Constants:
    """The kernel's numbers; `exploration_steps` are those of one walker."""
    return Constants(
        num_states=num_states,
        num_actions=num_actions,
        discount=config.discount,
        learning_rate=config.step_size,
        log_weight=float("inf") if config.step_size == 1 else float(-np.log1p(-config.step_size)),
        rate_exponent=config.learning_rate_exponent,
        exploration_initial=config.exploration_initial,
        exploration_final=config.exploration_final,
        exploration_steps=max(exploration_steps, 1e-9),
        temperature=config.temperature,
        max_episode_steps=max_episode_steps,
        history_length=config.history_length(rule),
        trace_decay=config.trace_decay,
    )


def make_history(num_walkers: int, history_length: int) -> History:
    """Nothing remembered yet."""
    room = (num_walkers, history_length)
    return History(
        np.zeros(num_walkers, np.int64), np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room)
    )


def make_walkers(run_seed: int, count: int) -> Walkers:
    """All walkers of the run, before their first state; a worker moves those that reside with it."""
    seed = mix(np.uint64((run_seed + _GOLDEN) % 2**64))
    random = np.array([mix(np.uint64((int(seed) + i * _GOLDEN) % 2**64)) for i in range(count)], np.uint64)
    return Walkers(
        state=np.full(count, -1),
        action=np.full(count, NO_ACTION),
        random=random,
        age=np.zeros(count, np.int64),
        born=np.zeros(count, np.int64),
        episode_return=np.zeros(count),
        origin=np.full(count, -1),
        origin_action=np.zeros(count, np.int64),
        origin_reward=np.zeros(count),
    )


@final
class TableLearner:
    """Learns by walking: `advance` makes steps, wherever it is cut into calls."""

    def __init__(self, task: Task, worker: int, table: Table, *, weighted: bool = False) -> None:
        self.task, self.table = task, table
        self.constants = task.constants()
        num_states = task.world.num_states
        self.shard = whole(num_states)
        self.program = task.program(num_states, weighted=weighted)
        self.walkers = make_walkers(task.seed, task.num_walkers)
        self.history = make_history(task.num_walkers, self.constants.history_length)
        own = task.walkers_per_worker
        self.residents = np.arange(worker * own, (worker + 1) * own)
        """Walkers that are here, in the order of their numbers."""
        self._cursor = np.zeros(3, np.int64)
        self._lanes = Lanes(
            np.empty(NUM_LANES, np.int64),
            np.empty(NUM_LANES, np.int64),
            np.empty(NUM_LANES, np.float64),
            np.empty(NUM_LANES, np.bool_),
        )

    def place(self, shard: Shard, table: Table) -> None:
        """Makes the learner that of some of the states."""
        self.shard, self.table = shard, table
        rows = "ordered" if shard.positions.size else "block"
        self.program = self.task.program(shard.num_rows, rows=rows)

    def leave(self, walkers: NDArray[np.int64]) -> None:
        """Makes resident walkers leave at the next exchange, as if they had crossed a border."""
        self.walkers.action[walkers] = NO_ACTION

    def forget(self) -> None:
        """Drops returns and traces that were begun: the rows they name are about to be others'."""
        self.history.length[:] = 0

    def work(self, totals: Totals | None = None) -> Work:
        """What the kernel works on now."""
        return Work(
            self.task.world.parameters,
            self.constants,
            self.table,
            self.walkers,
            self.history,
            self.shard,
            self.residents,
            self._cursor,
            self._lanes,
            no_totals() if totals is None else totals,
        )

    def start(self) -> None:
        """Puts the walkers into their first states, and lets them choose their first actions."""
        self.begin()
        self.admit()
        self.advance(0)  # compiles the kernel

    def begin_at(self, num_steps: int) -> None:
        """Before the walkers begin: together they have made `num_steps` steps; their random numbers are new ones."""
        fresh = make_walkers(int(mix(np.uint64((self.task.seed + num_steps) % 2**64))), self.task.num_walkers)
        self.walkers.random[:] = fresh.random
        self.walkers.age[:] = self.walkers.born[:] = num_steps // self.task.num_walkers

    def begin(self) -> None:
        """Puts the walkers into their first states; raises QfleetError if one is none of the world's."""
        begin(self.program, self.work())
        states = self.walkers.state[self.residents]
        wrong = states[(states < 0) | (states >= self.constants.num_states)]
        if wrong.size:
            raise QfleetError(self._bad_reset(int(wrong[0])))

    def admit(self) -> NDArray[np.float64]:
        """Lets the walkers that have just come choose an action; its value for each of them (for SARSA)."""
        answers = np.zeros(len(self.residents))
        admit(self.program, self.work(), answers)
        return answers

    def advance(self, budget: int) -> Advance:
        """Makes `budget` steps, or fewer if all walkers have left for other workers.

        Raises NonFiniteError or QfleetError for a step that no world may make.
        """
        totals = no_totals()
        if walk(self.program, self.work(totals), budget):
            raise self._fault(totals)
        return _advance_of(totals)

    def act(self, budget: int) -> tuple[Advance, Transitions]:
        """Makes `budget` steps and learns nothing from them; the transitions. Raises as `advance` does."""
        totals, made = no_totals(), Transitions.empty(budget)
        if act(self.program, self.work(totals), budget, made):
            raise self._fault(totals)
        return _advance_of(totals), made

    def measured(self) -> dict[str, float]:
        """Nothing beside what topologies measure."""
        return {}

    def sample_pairs(self) -> NDArray[np.int64]:
        """State-action pairs the walkers stand at, as numbers state * num_actions + action."""
        here = self.residents
        return self.walkers.state[here] * self.constants.num_actions + self.walkers.action[here]

    def close(self) -> None:
        """There is nothing to free."""

    def save_state(self) -> dict[str, Any]:
        """Everything but the table's values, which the topology keeps."""
        return {
            "walkers": self.walkers._asdict(),
            "history": self.history._asdict(),
            "visits": self.table.visits,
            "residents": self.residents,
            "cursor": self._cursor,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse, into the arrays that are there already."""
        for record, name in ((self.walkers, "walkers"), (self.history, "history")):
            for key, array in record._asdict().items():
                array[...] = state[name][key]
        self.table.visits[...] = state["visits"]
        self.residents = state["residents"].copy()
        self._cursor[...] = state["cursor"]

    def _fault(self, totals: Totals) -> QfleetError:
        walker, state, action, next_state, by_reset = (int(number) for number in totals.fault)
        if by_reset:
            return QfleetError(self._bad_reset(next_state))
        age = int(self.walkers.age[walker]) + 1
        where = f"{self.task.world.name}: step {age} of walker {walker}, action {action} in state {state},"
        if not np.isfinite(totals.fault_reward[0]):
            return NonFiniteError(f"{where} gave the reward {totals.fault_reward[0]}; rewards must be finite")
        last = self.constants.num_states - 1
        return QfleetError(f"{where} led to the state {next_state}; states are 0 to {last}")

    def _bad_reset(self, state: int) -> str:
        last = self.constants.num_states - 1
        return f"{self.task.world.name}: reset gave the state {state}; states are 0 to {last}"


def _advance_of(totals: Totals) -> Advance:
    counts, returns = totals.counts.tolist(), float(totals.returns[0])
    return Advance(counts[STEPS], counts[EPISODES], counts[EPISODE_STEPS], returns, counts[PARKED])


def no_totals() -> Totals:
    """Sums at zero."""
    return Totals(np.zeros(4, np.int64), np.zeros(1), np.zeros(5, np.int64), np.zeros(1))
