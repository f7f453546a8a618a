"""Stepping some environments one after another and resetting those whose episode ended: the hot loop.

The in-process engine runs it on all environments, every worker of the process engine on its slice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from qfleet.environments.checks import checked_mask
from qfleet.environments.single import SingleEnvironment
from qfleet.environments.vector import ObservationLayout


@dataclass(frozen=True)
class StepArrays:
    """Where a step's results are written; (num_envs, ...), plain or in shared memory."""

    observations: NDArray
    final_observations: NDArray
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    masks: NDArray[np.bool_]
    final_masks: NDArray[np.bool_]

    @staticmethod
    def fields(
        num_envs: int, num_actions: int, layout: ObservationLayout
    ) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array, in order."""
        observations = ((num_envs, *layout.shape), layout.dtype)
        flags = ((num_envs,), np.dtype(np.bool_))
        masks = ((num_envs, num_actions), np.dtype(np.bool_))
        return [observations, observations, ((num_envs,), np.dtype(np.float64)), flags, flags, masks, masks]

    def rows(self, first: int, end: int) -> "StepArrays":
        """Views of the environments from `first` to before `end`."""
        return StepArrays(*(array[first:end] for array in vars(self).values()))


class EnvironmentLoop:
    """Environments that are stepped in turn, writing into one of two sets of arrays."""

    def __init__(self, singles: list[SingleEnvironment], buffers: tuple[StepArrays, StepArrays]) -> None:
        self.envs: list[gymnasium.Env] = [single.env for single in singles]
        self.masks_on = False
        self._encoder = singles[0].encoder
        self._num_actions, self._start = singles[0].num_actions, singles[0].action_start
        self._buffers = buffers
        self._writers = [
            (self._encoder.writer(arrays.observations), self._encoder.writer(arrays.final_observations))
            for arrays in buffers
        ]
        self._steps: list[Callable] = [env.step for env in self.envs]

    def reset(self, seeds: NDArray[np.int64], side: int) -> None:
        """Starts a new episode everywhere, with one seed an environment."""
        arrays, (write, _) = self._buffers[side], self._writers[side]
        arrays.masks[:] = True
        for i, env in enumerate(self.envs):
            self._reset_one(env, i, write, arrays, int(seeds[i]))

    def step(self, actions: NDArray[np.int64], side: int) -> None:
        """Steps every environment and resets those that ended; results go to `buffers[side]`."""
        arrays, (write, write_final) = self._buffers[side], self._writers[side]
        if self._start:
            actions = actions + self._start
        rewards, terminations, truncations = [], [], []
        for i, (step, action) in enumerate(zip(self._steps, actions, strict=True)):
            observation, reward, terminated, truncated, info = step(action)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
            if terminated or truncated:
                write_final(i, observation)
                if self.masks_on or "action_mask" in info:
                    self._write_mask(info, i, arrays.final_masks)
                self._reset_one(self.envs[i], i, write, arrays)
            else:
                write(i, observation)
                if self.masks_on or "action_mask" in info:
                    self._write_mask(info, i, arrays.masks)
        arrays.rewards[:] = rewards
        arrays.terminated[:] = terminations
        arrays.truncated[:] = truncations

    def _reset_one(
        self, env: gymnasium.Env, i: int, write: Callable, arrays: StepArrays, seed: int | None = None
    ) -> None:
        observation, info = env.reset(seed=seed)
        self._encoder.check_shape(observation)
        write(i, observation)
        if self.masks_on or "action_mask" in info:
            self._write_mask(info, i, arrays.masks)

    def _write_mask(self, info: dict[str, Any], i: int, masks: NDArray[np.bool_]) -> None:
        if not self.masks_on:
            self.masks_on = True
            for arrays in self._buffers:
                arrays.masks[:] = True
                arrays.final_masks[:] = True
        mask = info.get("action_mask")
        masks[i] = True if mask is None else checked_mask(mask, self._num_actions)
