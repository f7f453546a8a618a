"""A world of your own: two plain functions that run inside the learning kernels, at their speed.

The windy gridworld of Sutton and Barto 2018, example 6.5. From Python as below, or by `qfleet train own_world:GRID`
in this folder.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import qfleet

ROWS, COLUMNS = 7, 10
START, GOAL = 3 * COLUMNS + 0, 3 * COLUMNS + 7


class Wind(NamedTuple):
    """What the functions are given: numbers and arrays, which they may read but not make."""

    strength: NDArray[np.int64]
    """(COLUMNS,): rows by which the wind carries a walker up who leaves a cell of the column."""
    calm: float
    """Probability that the wind rests for a step."""


def step(wind, state, action, random):
    """Up, down, left, right by 0 to 3; every step costs 1."""
    row, column = state // COLUMNS, state % COLUMNS
    lift = 0 if random < wind.calm else wind.strength[column]
    down = int(action == 1) - int(action == 0)
    right = int(action == 3) - int(action == 2)
    row = min(max(row + down - lift, 0), ROWS - 1)
    column = min(max(column + right, 0), COLUMNS - 1)
    next_state = row * COLUMNS + column
    return next_state, -1.0, next_state == GOAL


def reset(wind, random):
    """Every episode begins in the same cell."""
    return START


GRID = qfleet.World(
    step,
    reset,
    num_states=ROWS * COLUMNS,
    num_actions=4,
    parameters=Wind(np.array([0, 0, 0, 1, 1, 1, 2, 2, 1, 0]), calm=0.0),
    name="windy grid",
    max_episode_steps=1000,
    grid_shape=(ROWS, COLUMNS),
)

if __name__ == "__main__":
    GRID.check()
    run = qfleet.train(GRID, steps=500_000, seed=0)
    print(run.summary["evaluation"])  # the best way takes 15 steps: a return of -15
