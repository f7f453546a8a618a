"""Drives worlds through the compiled kernels: frequencies of their steps, and learning in them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import Task
from qfleet.tabular.program import Program
from qfleet.tabular.records import Table
from qfleet.tabular.walk import reset, step
from qfleet.worlds.world import World


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
    masked = world.allowed is not None
    program = Program(world.key, "q-learning", "uniform", "constant", masked, False, "whole", False)
    _count_resets(program, world.parameters, draws, found.reset)
    _count_steps(program, world.parameters, draws, found.next_state, found.reward, found.terminated)
    return Frequencies(*(counts / draws for counts in found))


def learned(world: World, steps: int, initial: NDArray[np.float64]) -> Table:
    """The table after some steps of 16 walkers, from values (states, actions)."""
    config = TabularConfig(
        learning_rate=1,
        learning_rate_schedule="visits",
        learning_rate_exponent=0.51,
        exploration_initial=0.5,
        exploration_final=0.5,
    )
    task = Task(world, "q-learning", config, seed=5, total_steps=steps)
    learner = task.make_learner(0, task.make_table(initial[None].copy()))
    learner.start()
    assert learner.advance(steps).steps == steps
    return learner.table
