"""Environments whose steps take a known time: asleep, or busy in Python."""

import time
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

EPISODE_STEPS = 200


class SlowEnv(gymnasium.Env[NDArray[np.float32], np.int64], ABC):
    """Episodes of EPISODE_STEPS steps in which nothing happens; what a step costs is the subclass's."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._observation, self._num_steps = np.zeros(4, np.float32), 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """A new episode."""
        super().reset(seed=seed)
        self._num_steps = 0
        return self._observation, {}

    @abstractmethod
    def _take_time(self) -> None:
        """What a step costs."""

    def step(self, action: np.int64):
        """Takes its time."""
        self._take_time()
        self._num_steps += 1
        return self._observation, 0.0, self._num_steps == EPISODE_STEPS, False, {}


class SleepingEnv(SlowEnv):
    """Waits, as for a simulator elsewhere or a device."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def _take_time(self) -> None:
        time.sleep(self._seconds)


class BurningEnv(SlowEnv):
    """Computes in Python: a fixed amount of work, so that it takes longer where there is less of a core to be had."""

    def __init__(self, num_turns: int) -> None:
        super().__init__()
        self._num_turns = num_turns

    def _take_time(self) -> None:
        burn(self._num_turns)


def burn(num_turns: int) -> int:
    """So many turns of a loop that holds the interpreter lock."""
    total = 0
    for turn in range(num_turns):
        total = (total + turn) & 0xFF
    return total
