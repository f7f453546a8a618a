"""What every engine guarantees of a step: finite numbers, and at least one allowed action."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.vector import Step
from qfleet.errors import NonFiniteError, QfleetError


def environment_seeds(seed: int, num_envs: int) -> NDArray[np.int64]:
    """(num_envs,): one 31-bit seed an environment, derived from (seed, index) alone."""
    states = [np.random.SeedSequence((seed, i)).generate_state(1)[0] for i in range(num_envs)]
    return np.array(states, np.int64) & 0x7FFFFFFF


def masks_in_info(info: dict[str, Any], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The action masks (num_envs, num_actions) in a batch's info, all true where one is not given."""
    given = info.get("action_mask")
    if given is None:
        return None
    present = np.asarray(info.get("_action_mask", np.ones(shape[0], np.bool_)))
    masks = np.ones(shape, np.bool_)
    for i in np.flatnonzero(present):
        masks[i] = checked_mask(given[i], shape[1])
    return masks


def checked_mask(mask: Any, num_actions: int) -> Any:
    """The mask itself, if it has one entry an action."""
    if np.shape(mask) != (num_actions,):
        raise QfleetError(f"info['action_mask'] has shape {np.shape(mask)}, it should have ({num_actions},)")
    return mask


def all_finite(array: NDArray[np.floating]) -> bool:
    """Whether no number is NaN or infinite; one product, in which these show, is looked at before each number is."""
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


class StepChecker:
    """Counts every environment's steps in its episode, and names environment and step of what is wrong."""

    def __init__(self, name: str, num_envs: int) -> None:
        self.name = name
        self.episode_steps = np.zeros(num_envs, np.int64)

    def check_reset(self, observations: NDArray, masks: NDArray[np.bool_] | None) -> None:
        """Starts counting anew, and checks the first observations and masks."""
        self.episode_steps[:] = 0
        self._check_finite(observations, "observation")
        if masks is not None:
            self._check_masks(masks, np.ones(len(masks), np.bool_))

    def check(self, step: Step) -> None:
        """Raises NonFiniteError or QfleetError; afterwards the counts are those after the step."""
        self.episode_steps += step.stepped
        ended = step.terminated | step.truncated
        if not all_finite(step.rewards):
            self._raise_not_finite(~np.isfinite(step.rewards), "reward")
        if np.count_nonzero(ended):
            self._check_finite(step.final_observations, "observation", ended)
        self.episode_steps[step.started] = 0
        self._check_finite(step.observations, "observation")
        if step.action_masks is not None:
            # Nobody acts in a terminal observation, which next-step engines still show here.
            self._check_masks(step.action_masks, step.started | ~step.terminated)
        if step.final_action_masks is not None:
            self._check_masks(step.final_action_masks, step.truncated & ~step.terminated)

    def _check_finite(self, array: NDArray, what: str, where: NDArray[np.bool_] | None = None) -> None:
        if array.dtype == np.uint8 or all_finite(array):
            return
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if where is not None:
            bad &= where
        if bad.any():
            self._raise_not_finite(bad, what)

    def _raise_not_finite(self, bad: Any, what: str) -> None:
        i = int(np.flatnonzero(bad)[0])
        raise NonFiniteError(
            f"{self.name}: the {what} of environment {i} at step {self.episode_steps[i]} of its episode "
            "is not finite in float32; learning from it would spoil every value"
        )

    def _check_masks(self, masks: NDArray[np.bool_], where: NDArray[np.bool_]) -> None:
        empty = where & ~masks.any(axis=1)
        if empty.any():
            i = int(np.flatnonzero(empty)[0])
            raise QfleetError(
                f"{self.name}: the action mask of environment {i} at step {self.episode_steps[i]} of its "
                "episode allows no action; it has to allow at least one"
            )
