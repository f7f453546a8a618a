"""Train on an environment of your own, handed over as a function."""

import gymnasium
import numpy as np

import qfleet


class Corridor(gymnasium.Env):
    """Walk right to the end of a corridor of ten cells."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._cell = 0
        return self._observation(), {}

    def step(self, action):
        self._cell = max(0, self._cell + (1 if action == 1 else -1))
        return self._observation(), -0.1, self._cell == 10, False, {}

    def _observation(self):
        return np.array([self._cell / 10], np.float32)


def make_corridor() -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Corridor(), 100)


run = qfleet.train(make_corridor, steps=10_000, seed=0)
print(run.summary["evaluation"])
