"""The engine `registered`: a vector environment that the environment's own package registers."""

from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from qfleet.environments.checks import StepChecker, environment_seeds, masks_in_info
from qfleet.environments.identifiers import missing_package
from qfleet.environments.spaces import ObservationEncoder, discrete_actions
from qfleet.environments.state import generator_state, restored_generator
from qfleet.environments.vector import Step, VectorEnvironment
from qfleet.errors import QfleetError


def make_registered(name: str, num_envs: int, options: dict[str, Any]) -> VectorEnv:
    """The vector environment registered for `name`; QfleetError where there is none or it cannot be made."""
    spec = gymnasium.spec(name)
    if spec.vector_entry_point is None:
        raise QfleetError(
            f"{name} registers no vector environment; the engines in-process and processes run it"
        )
    try:
        return gymnasium.make_vec(name, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)
    except ImportError as error:
        raise missing_package(error, name) from error
    except (TypeError, ValueError, AssertionError, gymnasium.error.Error) as error:
        reason = " ".join(str(error).split())[:300]
        raise QfleetError(
            f"{name}'s vector environment cannot be made: {reason}; try the engine in-process"
        ) from error


class RegisteredEnvironment(VectorEnvironment):
    """A Gymnasium vector environment of either autoreset mode."""

    def __init__(
        self,
        vector: VectorEnv,
        name: str,
        *,
        engine: str = "registered",
        frame_stack: int = 1,
        takes_seeds: bool = False,
    ) -> None:
        self._vector = vector
        self.engine, self.frame_stack, self._takes_seeds = engine, frame_stack, takes_seeds
        self.num_envs = vector.num_envs
        try:
            self._same_step = _resets_in_same_step(vector, name)
            self.num_actions, self._start = discrete_actions(vector.single_action_space, name)
            self._encoder = ObservationEncoder(vector.single_observation_space)
        except BaseException:
            vector.close()
            raise
        self.layout = self._encoder.layout
        self._checker = StepChecker(name, self.num_envs)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._masks_on = False

    def reset(self, seed: int) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """See `VectorEnvironment.reset`."""
        seeds = environment_seeds(seed, self.num_envs)
        observations, info = self._vector.reset(seed=cast(Any, seeds if self._takes_seeds else int(seeds[0])))
        self._ended = np.zeros(self.num_envs, np.bool_)
        encoded, masks = self._encoder.encode_batch(observations, self.num_envs), self._masks(info)
        self._checker.check_reset(encoded, masks)
        return encoded, masks

    def step(self, actions: NDArray[np.int64]) -> Step:
        """See `VectorEnvironment.step`."""
        observations, rewards, terminated, truncated, info = self._vector.step(actions + self._start)
        encoded, masks = self._encoder.encode_batch(observations, self.num_envs), self._masks(info)
        ended = terminated | truncated
        final, final_masks = encoded, masks
        if self._same_step and ended.any():
            final, final_masks = self._final(info, ended), self._final_masks(info)
        step = Step(
            observations=encoded,
            rewards=np.asarray(rewards, np.float64),
            terminated=terminated,
            truncated=truncated,
            final_observations=final,
            stepped=np.ones_like(ended) if self._same_step else ~self._ended,
            started=ended if self._same_step else self._ended,
            action_masks=masks,
            final_action_masks=final_masks,
        )
        self._ended = ended
        self._checker.check(step)
        return step

    def _masks(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        masks = masks_in_info(info, (self.num_envs, self.num_actions))
        self._masks_on = self._masks_on or masks is not None
        if masks is None and self._masks_on:
            return np.ones((self.num_envs, self.num_actions), np.bool_)
        return masks

    def _final(self, info: dict[str, Any], ended: NDArray[np.bool_]) -> NDArray:
        """The last observations, which same-step autoreset leaves in info, one object an environment."""
        final = np.zeros((self.num_envs, *self.layout.shape), self.layout.dtype)
        for i in np.flatnonzero(ended):
            final[i] = self._encoder.encode(_row(info["final_obs"], int(i)))
        return final

    def _final_masks(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        return self._masks(info.get("final_info", {}))

    def save_state(self) -> dict[str, NDArray] | None:
        """Exact for Gymnasium's vector CartPole; None for others."""
        vector = self._vector.unwrapped
        if type(vector) is not CartPoleVectorEnv or vector.state is None:
            return None
        return {
            "state": vector.state.copy(),
            "steps": vector.steps.copy(),
            "ended": vector.prev_done.copy(),
            "random": generator_state(vector.np_random),
            "episode_steps": self._checker.episode_steps.copy(),
        }

    def load_state(self, state: dict[str, NDArray]) -> None:
        """See `VectorEnvironment.load_state`."""
        vector = cast(CartPoleVectorEnv, self._vector.unwrapped)
        vector.reset(seed=0)
        vector.state, vector.steps = state["state"].copy(), state["steps"].copy()
        vector.prev_done, self._ended = state["ended"].copy(), state["ended"].copy()
        vector.np_random = restored_generator(state["random"])
        self._checker.episode_steps[:] = state["episode_steps"]

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        self._vector.close()


def _resets_in_same_step(vector: VectorEnv, name: str) -> bool:
    mode = vector.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        raise QfleetError(
            f"{name}'s vector environment has autoreset mode {mode}, next-step or same-step is needed; "
            "the engines in-process and processes run the environment"
        )
    return mode is AutoresetMode.SAME_STEP


def _row(observations: Any, i: int) -> Any:
    """Environment i's part of a batch: an array (of objects), a dict or a tuple of such."""
    if isinstance(observations, dict):
        return {key: _row(value, i) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_row(value, i) for value in observations)
    return observations[i]
