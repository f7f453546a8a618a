"""Choosing actions."""

import numpy as np

from qfleet.deep.targets import best_action
from qfleet.kernels import STREAM_EXPLORATION, kernel, uniform


@kernel
def _random_action(mask, num_actions, draw):
    if len(mask) == 0:
        return np.int64(draw * num_actions)
    chosen = np.int64(draw * np.sum(mask))
    for action in range(num_actions):
        if mask[action]:
            if chosen == 0:
                return np.int64(action)
            chosen -= 1
    return np.int64(-1)


@kernel
def epsilon_greedy(values, masks, epsilon, seed, counter, actions):
    """Fills actions (num_envs,) int64: with probability epsilon a random allowed one, else the best.

    `values` (num_envs, num_actions); `masks` the same shape of bool, or (num_envs, 0). Environment i's draws
    at vector step `counter` depend on (seed, counter, i) alone.
    """
    num = len(actions)
    for i in range(num):
        if uniform(seed, STREAM_EXPLORATION, counter, 2 * i) < epsilon:
            draw = uniform(seed, STREAM_EXPLORATION, counter, 2 * i + 1)
            actions[i] = _random_action(masks[i], values.shape[1], draw)
        else:
            actions[i] = best_action(values[i], masks[i])
