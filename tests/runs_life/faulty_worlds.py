"""Worlds that go wrong, in a module of their own, as a user's are."""

import numpy as np

from qfleet.worlds.world import World

STATE, REWARD, RAISED, RESET = 1, 2, 3, 4


def _step(parameters, state, action, random):
    kind, chance = parameters
    next_state, reward = (state + 1 + action) % 8, 0.5
    if state == 6 and action == 1 and random < chance:
        if kind == STATE:
            next_state = np.int64(99)
        elif kind == REWARD:
            reward = np.nan
        elif kind == RAISED:
            raise ValueError("the pump is dry")
    return next_state, reward, False


def _reset(parameters, random):
    return np.int64(8) if parameters[0] == RESET and random > 0.999 else np.int64(random * 8)


def faulty(kind: int, chance: float = 1.0) -> World:
    """Eight states; in state 6, of the second half, action 1 goes wrong."""
    return World(_step, _reset, 8, 2, (kind, chance), "Pump", max_episode_steps=50)


def endless() -> World:
    """It does nothing wrong."""
    return faulty(0)
