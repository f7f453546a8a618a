"""Which actions a world's states have, as an array."""

import numba
import numpy as np
from numpy.typing import NDArray

from qfleet.worlds.world import World


def allowed_actions(world: World, states: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """(len(states), num_actions) bool; None where all actions are allowed everywhere."""
    if world.allowed is None:
        return None
    out = np.empty((len(states), world.num_actions), np.bool_)
    _fill(world.allowed, world.parameters, states, out)
    return out


@numba.njit
def _fill(allowed, parameters, states, out):
    for index in range(len(states)):
        for action in range(out.shape[1]):
            out[index, action] = allowed(parameters, states[index], action)
