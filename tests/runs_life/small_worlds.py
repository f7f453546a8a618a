"""Environments made for one question each."""

import threading
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class MatchEnv(gymnasium.Env):
    """Six steps; 1 for the action that the observation names. Dict of a vector, a category and a bit."""

    observation_space = spaces.Dict(
        {
            "noise": spaces.Box(-1, 1, (2,), np.float64),
            "which": spaces.Discrete(3, start=4),
            "pair": spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(2))),
        }
    )
    action_space = spaces.Discrete(3, start=10)

    def _observe(self) -> dict[str, Any]:
        self.which = int(self.np_random.integers(3))
        return {
            "noise": self.np_random.uniform(-1, 1, 2),
            "which": np.int64(4 + self.which),
            "pair": (np.array([1, 0], np.int8), np.int64(1)),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(np.int64(action))
        reward = float(action - 10 == self.which)
        self.time += 1
        return self._observe(), reward, self.time == 6, False, {}


class SeedLogEnv(gymnasium.Env):
    """Three steps whose return is pure chance; notes every seed and whether an actor's thread gave it."""

    observation_space = spaces.Box(-10, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)
    training: ClassVar[set[int]] = set()
    evaluation: ClassVar[list[int]] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None and seed != 0:  # 0: looked at before training, not played
            if threading.current_thread().name == "the actor":
                SeedLogEnv.training.add(seed)
            else:
                SeedLogEnv.evaluation.append(seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), float(self.np_random.normal()), self.time == 3, False, {}


class FaultyEnv(gymnasium.Env):
    """Ten-step episodes; environment 2 goes wrong at step 7 of its `faulty_episode`-th one."""

    observation_space = spaces.Box(-10, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)
    num_made = 0

    def __init__(self, fault: str, faulty_episode: int = 30) -> None:
        self.fault, self.faulty_episode, self.episode = fault, faulty_episode, 0
        self.index, FaultyEnv.num_made = FaultyEnv.num_made, FaultyEnv.num_made + 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        observation, reward = np.full(1, self.time, np.float32), 1.0
        if self.index == 2 and self.episode == self.faulty_episode and self.time == 7:
            if self.fault == "exception":
                raise ZeroDivisionError("the simulator divided by zero")
            reward = {"nan": np.nan, "infinite": np.inf, "observation": 1.0}[self.fault]
            observation = observation * (np.nan if self.fault == "observation" else 1)
        return observation, reward, False, self.time == 10, {}


class LateMaskEnv(gymnasium.Env):
    """Names no mask at the reset, and one from the first step on."""

    observation_space = spaces.Box(-10, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"action_mask": np.array([1, 0], np.int8)}
