"""The engine `in-process`: environments of this process stepped in turn, reset within the step."""

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.checks import StepChecker, environment_seeds
from qfleet.environments.loop import EnvironmentLoop, StepArrays
from qfleet.environments.single import SingleFactory
from qfleet.environments.state import load_environment, save_environment
from qfleet.environments.vector import Step, VectorEnvironment


def step_of(arrays: StepArrays, stepped: NDArray[np.bool_], *, masks_on: bool) -> Step:
    """The step of an engine that resets within it: all environments are `stepped`, and what ended has started."""
    return Step(
        observations=arrays.observations,
        rewards=arrays.rewards,
        terminated=arrays.terminated,
        truncated=arrays.truncated,
        final_observations=arrays.final_observations,
        stepped=stepped,
        started=arrays.terminated | arrays.truncated,
        action_masks=arrays.masks if masks_on else None,
        final_action_masks=arrays.final_masks if masks_on else None,
    )


class InProcessEnvironment(VectorEnvironment):
    """Any Gymnasium environments, in a plain loop."""

    engine = "in-process"

    def __init__(self, factory: SingleFactory, num_envs: int) -> None:
        self._singles = [factory.make()]
        try:
            self._singles += [factory.make() for _ in range(num_envs - 1)]
        except BaseException:
            self.close()
            raise
        first = self._singles[0]
        self.num_envs, self.num_actions = num_envs, first.num_actions
        self.layout, self.frame_stack = first.encoder.layout, first.frame_stack
        self._checker, self._all_stepped = StepChecker(first.name, num_envs), np.ones(num_envs, np.bool_)
        fields = StepArrays.fields(num_envs, self.num_actions, self.layout)
        self._buffers = tuple(StepArrays(*(np.zeros(*field) for field in fields)) for _ in range(2))
        self._side = 0
        self._loop = EnvironmentLoop(self._singles, (self._buffers[0], self._buffers[1]))
        self._keeps_object = factory.is_object and factory.training

    def reset(self, seed: int) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """See `VectorEnvironment.reset`."""
        self._side ^= 1
        self._loop.reset(environment_seeds(seed, self.num_envs), self._side)
        arrays = self._buffers[self._side]
        masks = arrays.masks if self._loop.masks_on else None
        self._checker.check_reset(arrays.observations, masks)
        return arrays.observations, masks

    def step(self, actions: NDArray[np.int64]) -> Step:
        """See `VectorEnvironment.step`."""
        self._side ^= 1
        self._loop.step(actions, self._side)
        step = step_of(self._buffers[self._side], self._all_stepped, masks_on=self._loop.masks_on)
        self._checker.check(step)
        return step

    def save_state(self) -> dict[str, NDArray] | None:
        """Exact for classic control, the toy-text tables and ALE; None for others."""
        state = {
            "episode_steps": self._checker.episode_steps.copy(),
            "masks_on": np.array(self._loop.masks_on),
        }
        for i, env in enumerate(self._loop.envs):
            saved = save_environment(env)
            if saved is None:
                return None
            state |= {f"{i}.{key}": array for key, array in saved.items()}
        return state

    def load_state(self, state: dict[str, NDArray]) -> None:
        """See `VectorEnvironment.load_state`."""
        self._checker.episode_steps[:] = state["episode_steps"]
        self._loop.masks_on = bool(state["masks_on"])
        for i, env in enumerate(self._loop.envs):
            prefix = f"{i}."
            load_environment(
                env, {key.removeprefix(prefix): a for key, a in state.items() if key.startswith(prefix)}
            )

    def close(self) -> None:
        """Closes the environments, except one that was handed in as an object."""
        for single in self._singles:
            if not getattr(self, "_keeps_object", False):
                single.env.close()
