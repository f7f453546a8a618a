"""What is done to one Atari environment so that it looks like those of ALE's vector environment."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

SCREEN = 84
FRAME_STACK = 4
NOOP_MAX = 30
MAX_EPISODE_STEPS = 27000


def area_weights(source: int, target: int) -> NDArray[np.float32]:
    """(target, source): each target pixel's mean over the part of the source that it covers."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * target / source).astype(np.float32)


class AtariPreprocessing(gymnasium.Wrapper):
    """Grey 84x84 frames, every action for `frameskip` frames, the maximum of the last two, random no-ops.

    Gymnasium's wrapper of the same name needs OpenCV; this one resizes by two matrix products. Mnih et al.,
    Human-level control through deep reinforcement learning, 2015.
    """

    def __init__(self, env: gymnasium.Env, frameskip: int = 4) -> None:
        super().__init__(env)
        self._ale = env.unwrapped.ale  # pyright: ignore[reportAttributeAccessIssue]
        height, width = self._ale.getScreenDims()
        self._frameskip = frameskip
        self._screens = np.zeros((2, height, width), np.uint8)
        self._rows, self._columns = area_weights(height, SCREEN), area_weights(width, SCREEN).T
        self._fires = "FIRE" in env.unwrapped.get_action_meanings()[:2]  # pyright: ignore[reportAttributeAccessIssue]
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, SCREEN, SCREEN), np.uint8)

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeats the action and returns the maximum of the last two screens."""
        total, terminated, truncated, info = 0.0, False, False, {}
        self._screens[:] = 0
        for frame in range(self._frameskip):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if frame >= self._frameskip - 2:
                self._ale.getScreenGrayscale(self._screens[frame % 2])
            if terminated or truncated:
                self._ale.getScreenGrayscale(self._screens[0])
                break
        return self._observation(), total, terminated, truncated, info

    def reset(self, **arguments: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Starts with 1 to 30 no-ops, then presses fire where the game waits for it."""
        _, info = self.env.reset(**arguments)
        actions = [0] * int(self.env.unwrapped.np_random.integers(1, NOOP_MAX + 1))
        for action in [*actions, 1] if self._fires else actions:
            _, _, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:
                _, info = self.env.reset()
        self._screens[:] = 0
        self._ale.getScreenGrayscale(self._screens[0])
        return self._observation(), info

    def _observation(self) -> NDArray[np.uint8]:
        screen = self._screens.max(axis=0).astype(np.float32)
        return np.rint(self._rows @ screen @ self._columns).astype(np.uint8)[None]
