"""The arrays and numbers that the learning kernel works on, as it is given them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_ACTION = -1
"""The action of a walker that has yet to choose one."""


class Constants(NamedTuple):
    """Numbers that do not change during a run."""

    num_states: int
    num_actions: int
    discount: float
    learning_rate: float
    """The constant one; with other schedules their factor."""
    log_weight: float
    """-log(1 - learning_rate): what each update adds to the merge's weight where the rate is constant."""
    rate_exponent: float
    """omega in 1 / N^omega."""
    exploration_initial: float
    exploration_final: float
    exploration_steps: float
    """Steps of one walker over which exploration goes from initial to final."""
    temperature: float
    """Of Boltzmann exploration."""
    max_episode_steps: int
    """Steps after which an episode is truncated."""
    history_length: int
    """Steps of a return, or pairs of a trace, that are kept; 1 where the rule needs none."""
    trace_decay: float
    """lambda of Watkins' Q(lambda)."""


class Table(NamedTuple):
    """Values and what is counted beside them; all (num_tables, rows, num_actions) or empty where not needed."""

    values: NDArray[np.floating]
    """float32 or float64; two tables for double Q-learning."""
    visits: NDArray[np.uint32]
    """Updates so far."""
    log_weights: NDArray[np.float64]
    """Sum of -log(1 - learning rate) over the updates since the last merge."""


class Walkers(NamedTuple):
    """Where each walker is; every array is (num_walkers,)."""

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    """Chosen for `state` already; NO_ACTION before the first, and after a border was crossed."""
    random: NDArray[np.uint64]
    """State of its splitmix64 generator (Steele et al. 2014)."""
    age: NDArray[np.int64]
    """Steps made so far."""
    born: NDArray[np.int64]
    """Age at which its episode began."""
    episode_return: NDArray[np.float64]
    """Undiscounted rewards of its episode so far."""
    origin: NDArray[np.int64]
    """Row of the pair whose update waits for a value from across the border, -1: none (SARSA alone)."""
    origin_action: NDArray[np.int64]
    origin_reward: NDArray[np.float64]


class History(NamedTuple):
    """What each walker remembers of its latest steps; (num_walkers, history_length), oldest first."""

    length: NDArray[np.int64]
    """(num_walkers,)"""
    row: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]


class Shard(NamedTuple):
    """Which states a table's rows are, and what is known of the others' values."""

    first: int
    """Position of the first row."""
    num_rows: int
    positions: NDArray[np.int32]
    """(num_states,): position of every state; empty where a state's number is its position."""
    halo_keys: NDArray[np.int64]
    """Open-addressing hash table of foreign states, -1: free; its length is a power of two."""
    halo_values: NDArray[np.float64]
    """(len(halo_keys), num_tables): what a step into the state bootstraps with, for the table that is updated."""
    unknown_value: float
    """What stands for the value of a foreign state that is not in the table; NaN: steps to it teach nothing."""
    met: NDArray[np.int64]
    """[how many, the foreign states that were met for the first time since the last exchange]."""
    load: NDArray[np.int64]
    """(num_blocks,): sampled visits by block of positions."""
    load_shift: int
    """Positions of a block, as a power of two."""


class Totals(NamedTuple):
    """What a call of the kernel adds up."""

    counts: NDArray[np.int64]
    """[steps, episodes, steps of ended episodes, parked walkers]."""
    returns: NDArray[np.float64]
    """[sum of the returns of ended episodes]."""
    fault: NDArray[np.int64]
    """[walker, state, action, next state, 1 if by a reset] of a step that no world may make."""
    fault_reward: NDArray[np.float64]
    """[its reward]."""


class Lanes(NamedTuple):
    """Room for the walkers that are stepped in turn; every array is (num_lanes,)."""

    walker: NDArray[np.int64]
    next_state: NDArray[np.int64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]


class Work(NamedTuple):
    """All that the kernel works on."""

    parameters: tuple[Any, ...]
    """The world's."""
    constants: Constants
    table: Table
    walkers: Walkers
    history: History
    shard: Shard
    residents: NDArray[np.int64]
    """Walkers that are here, in the order of their numbers."""
    cursor: NDArray[np.int64]
    """Where in the sequence of steps the last call stopped: [first of the lanes' walkers, step of the turn, lane]."""
    lanes: Lanes
    totals: Totals


STEPS, EPISODES, EPISODE_STEPS, PARKED = range(4)
