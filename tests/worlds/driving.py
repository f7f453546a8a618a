"""Drives worlds through the compiled kernels: frequencies of their steps, and the walk with a table."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel
from qfleet.tabular.program import Exploration, Program, Rule
from qfleet.tabular.records import Constants, History, Shard, Table, Totals, Walkers
from qfleet.tabular.walk import NUM_LANES, admit, reset, step, walk
from qfleet.worlds.world import World


def program_of(world: World, rule: Rule = "q-learning", exploration: Exploration = "epsilon-greedy") -> Program:
    return Program(world.key, rule, exploration, "visits", world.allowed is not None, False, False, False)


class Frequencies(NamedTuple):
    """Shares over evenly spread random numbers."""

    reset: NDArray[np.float64]
    next_state: NDArray[np.float64]
    """(states, actions, states)"""
    reward: NDArray[np.float64]
    """(states, actions): the mean."""
    terminated: NDArray[np.float64]
    """(states, actions)"""


@borrowing_kernel
def _count_resets(program, parameters, draws, counts):
    for i in range(draws):
        counts[reset(program, parameters, (i + 0.5) / draws)] += 1


@borrowing_kernel
def _count_steps(program, parameters, draws, counts, rewards, ends):
    for state in range(counts.shape[0]):
        for action in range(counts.shape[1]):
            for i in range(draws):
                next_state, reward, terminated = step(program, parameters, state, action, (i + 0.5) / draws)
                if 0 <= next_state < counts.shape[2]:
                    counts[state, action, next_state] += 1
                rewards[state, action] += reward
                ends[state, action] += terminated


def frequencies(world: World, draws: int) -> Frequencies:
    """What the jitted functions do for `draws` evenly spread random numbers, so without any chance."""
    states, actions = world.num_states, world.num_actions
    found = Frequencies(
        np.zeros(states),
        np.zeros((states, actions, states)),
        np.zeros((states, actions)),
        np.zeros((states, actions)),
    )
    program = program_of(world)
    _count_resets(program, world.parameters, draws, found.reset)
    _count_steps(program, world.parameters, draws, found.next_state, found.reward, found.terminated)
    return Frequencies(*(counts / draws for counts in found))


def learned(
    world: World,
    steps: int,
    initial: NDArray[np.float64],
    rule: Rule = "q-learning",
    exploration: Exploration = "epsilon-greedy",
) -> tuple[Table, Totals]:
    """The table after some steps of 16 walkers, and what the walk counted; `initial` (states, actions)."""
    states, num = initial.shape[0], NUM_LANES
    table = Table(initial[None].copy(), np.zeros((1, *initial.shape), np.uint32), np.zeros((0, 0, 0)))
    walkers = _walkers(world, num)
    whole = Shard(
        0, states, np.zeros(0, np.int32), np.full(16, -1), np.zeros((16, 2)), np.zeros(1, np.int64), 0
    )
    totals = Totals(np.zeros(4, np.int64), np.zeros(1), np.zeros(4, np.int64), np.zeros(1))
    program, constants = program_of(world, rule, exploration), _constants(world)
    residents, cursor = np.arange(num), np.zeros(3, np.int64)
    scratch = (np.empty(num, np.int64), np.empty(num, np.int64), np.empty(num), np.empty(num, np.bool_))
    history = History(
        np.zeros(num, np.int64), *(np.zeros((num, 1), kind) for kind in (np.int64, np.int64, float))
    )
    admit(program, world.parameters, constants, table, walkers, whole, residents, num, np.zeros(num))
    walk(
        program, world.parameters, constants, table, walkers, history, whole, residents, num, cursor, steps,
        totals, scratch,
    )  # fmt: skip
    return table, totals


def _walkers(world: World, num: int) -> Walkers:
    random = np.random.default_rng(5)
    whole: Any = lambda fill=0: np.full(num, fill, np.int64)  # noqa: E731
    starts = np.array([world.reset(world.parameters, draw) for draw in random.random(num)], np.int64)
    bits = random.integers(0, 2**63, num, np.uint64)
    return Walkers(starts, whole(-1), bits, whole(), whole(), np.zeros(num), whole(-1), whole(), np.zeros(num))


def _constants(world: World) -> Constants:
    limit = world.max_episode_steps or 2**62
    return Constants(
        world.num_states, world.num_actions, 0.9, 1.0, 0.0, 0.8, 0.5, 0.5, 1.0, 1.0, limit, 1, 0.9, 0.0
    )
