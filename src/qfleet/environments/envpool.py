"""The engine `envpool`: EnvPool's C++ environments.

EnvPool resets an ended environment in the next step: that step returns the new episode's first
observation, reward 0 and elapsed_step 0, and its action is ignored; the step before returned the true last
observation. It reports an episode that terminates exactly at its time limit as truncated alone.
"""

import importlib
import os
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from qfleet.environments.checks import StepChecker, environment_seeds
from qfleet.environments.identifiers import envpool_ids, missing_package
from qfleet.environments.spaces import ObservationEncoder, discrete_actions
from qfleet.environments.vector import Step, VectorEnvironment
from qfleet.errors import QfleetError


@dataclass(frozen=True)
class EnvPoolSpec:
    """What EnvPool says of an id before a pool is made."""

    task: str
    options: dict[str, Any]
    config: Any
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    frame_stack: int


def envpool_spec(name: str, options: dict[str, Any]) -> EnvPoolSpec:
    """The specification for an id of EnvPool's or of ALE/; frame stacks are taken out of it."""
    try:
        package = importlib.import_module("envpool")
    except ImportError as error:
        raise missing_package(error, f"the engine envpool for {name}") from error
    task = name.removeprefix("ALE/")
    if task not in envpool_ids():
        raise QfleetError(f"{name} does not exist in EnvPool; the engines in-process and processes run it")
    if name != task:
        options = {"repeat_action_probability": 0.25} | options
    with warnings.catch_warnings():
        # EnvPool declares bounds in float64 for float32 boxes, and Gymnasium warns of each.
        warnings.simplefilter("ignore")
        try:
            spec = package.make_spec(task, **options)
            frame_stack = getattr(spec.config, "stack_num", 1)
            if frame_stack > 1:
                options = {**options, "stack_num": 1}
                spec = package.make_spec(task, **options)
            spaces = spec.gymnasium_observation_space, spec.gymnasium_action_space
            return EnvPoolSpec(task, options, spec.config, *spaces, frame_stack)
        except (TypeError, ValueError, RuntimeError) as error:
            raise QfleetError(f"EnvPool cannot make {task}: {' '.join(str(error).split())}") from error


class EnvPoolEnvironment(VectorEnvironment):
    """A pool that is made anew at every reset, as EnvPool takes its seeds when it is made."""

    engine = "envpool"

    def __init__(self, name: str, num_envs: int, options: dict[str, Any]) -> None:
        spec = envpool_spec(name, options)
        self._task, self._options, self.frame_stack = spec.task, spec.options, spec.frame_stack
        self.num_envs = num_envs
        self.num_actions, self._start = discrete_actions(spec.action_space, name)
        self._encoder = ObservationEncoder(spec.observation_space)
        self.layout = self._encoder.layout
        self._checker = StepChecker(name, num_envs)
        self._ended = np.zeros(num_envs, np.bool_)
        self._pool: Any = None

    def reset(self, seed: int) -> tuple[NDArray, None]:
        """See `VectorEnvironment.reset`."""
        self.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pool = importlib.import_module("envpool").make(
                self._task,
                env_type="gymnasium",
                num_envs=self.num_envs,
                num_threads=min(self.num_envs, os.cpu_count() or 1),
                seed=environment_seeds(seed, self.num_envs).tolist(),
                **self._options,
            )
            observations, _ = self._pool.reset()
        self._ended = np.zeros(self.num_envs, np.bool_)
        encoded = self._encoder.encode_batch(observations, self.num_envs)
        self._checker.check_reset(encoded, None)
        return encoded, None

    def step(self, actions: NDArray[np.int64]) -> Step:
        """See `VectorEnvironment.step`."""
        observations, rewards, terminated, truncated, _ = self._pool.step(actions + self._start)
        encoded = self._encoder.encode_batch(observations, self.num_envs)
        step = Step(
            observations=encoded,
            rewards=np.asarray(rewards, np.float64),
            terminated=terminated,
            truncated=truncated,
            final_observations=encoded,
            stepped=~self._ended,
            started=self._ended,
            action_masks=None,
            final_action_masks=None,
        )
        self._ended = terminated | truncated
        self._checker.check(step)
        return step

    def save_state(self) -> None:
        """EnvPool cannot tell its state."""
        return None

    def load_state(self, state: dict[str, NDArray]) -> None:
        """Never called, as `save_state` gives nothing."""
        raise QfleetError("EnvPool's environments cannot be put back into a saved state")

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
