"""Priorities of new transitions, made by the actor out of the values that it acts by.

Horgan et al. 2018 (arXiv 1803.00933), section 3 and algorithm 1: the largest priority so far, which new transitions
get otherwise, would fill a replay that many actors write to with what has not been looked at yet. Q(s, a) of the action
taken and max Q(s) are kept of every frame acted on. What has not been acted on by the end of a block (the frames that
the next block begins with, and the last of truncated episodes) is evaluated there, all in one batch.
"""

from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.learner import Policy
from qfleet.deep.targets import best_action
from qfleet.errors import NonFiniteError
from qfleet.kernels import kernel


class Unvalued(NamedTuple):
    """Frames whose values are not known yet."""

    frames: NDArray[np.int64]
    """(num,): their numbers; below 0 for those that are of no use."""
    observations: NDArray
    """(num, frame_stack * size): the stacks that end with them."""
    masks: NDArray[np.bool_]
    """(num, num_actions), or (num, 0) where nothing is masked."""


@kernel
def _keep_taken(frames, values, actions, taken):
    for i in range(len(frames)):
        if frames[i] >= 0:
            taken[frames[i] % len(taken)] = values[i, actions[i]]


@kernel
def _keep_best(frames, values, masks, best):
    for i in range(len(frames)):
        if frames[i] >= 0:
            best[frames[i] % len(best)] = values[i, best_action(values[i], masks[i])]


@kernel
def td_priorities(frames, next_frames, rewards, discounts, taken, best, exponent, floor, priorities):
    """Fills `priorities` (num,) float64 with (|R + discount * max Q(s') - Q(s, a)| + floor)^exponent.

    `taken` and `best` (length,) float32 hold Q(s, a) and max Q(s) of frame number f at f % length. In the precision of
    `qfleet.replay.replay.update_priorities`, so that learners' priorities and these are of one kind.
    """
    length = len(taken)
    for i in range(len(priorities)):
        error = rewards[i] - taken[frames[i] % length]
        if discounts[i] != 0:
            error += discounts[i] * best[next_frames[i] % length]
        priorities[i] = np.float32(abs(error) + floor) ** np.float32(exponent)


@final
class FrameValues:
    """Q(s, a) and max Q(s) of an actor's newest frames, by the frames' numbers."""

    def __init__(
        self, num_envs: int, n_step: int, max_steps_per_block: int, exponent: float, floor: float
    ) -> None:
        # A vector step brings two frames an environment at most; a block's transitions reach back n_step before it.
        length = 2 * num_envs * (max_steps_per_block + n_step + 2)
        self._taken, self._best = np.zeros(length, np.float32), np.zeros(length, np.float32)
        self._exponent, self._floor = exponent, floor
        self._unvalued: list[Unvalued] = []

    def acted(
        self,
        frames: NDArray[np.int64],
        values: NDArray[np.float32],
        masks: NDArray[np.bool_],
        actions: NDArray[np.int64],
    ) -> None:
        """Keeps the `values` (num_envs, num_actions) that `actions` (num_envs,) were chosen by."""
        _keep_taken(frames, values, actions, self._taken)
        _keep_best(frames, values, masks, self._best)

    def add_unvalued(
        self, frames: NDArray[np.int64], observations: NDArray, masks: NDArray[np.bool_]
    ) -> None:
        """Frames that nobody will have acted on when `evaluate` is called (copied)."""
        self._unvalued.append(Unvalued(frames.copy(), observations.copy(), masks.copy()))

    def evaluate(self, policy: Policy) -> None:
        """Values what was added since the last call, in one forward pass."""
        if not self._unvalued:
            return
        frames, observations, masks = (np.concatenate(parts) for parts in zip(*self._unvalued, strict=True))
        self._unvalued.clear()
        _keep_best(frames, policy.values(observations), masks, self._best)

    def priorities(self, transitions: dict[str, NDArray]) -> NDArray[np.float64]:
        """(transitions,) of a recorder's block, all of whose frames have been valued.

        Raises NonFiniteError if the network's values are not finite.
        """
        priorities = np.empty(len(transitions["frame"]), np.float64)
        td_priorities(
            transitions["frame"],
            transitions["next_frame"],
            transitions["reward"],
            transitions["discount"],
            self._taken,
            self._best,
            self._exponent,
            self._floor,
            priorities,
        )
        if not np.isfinite(priorities).all():
            raise NonFiniteError(
                "an actor's priorities are not finite: the network's values are not. A smaller --learning-rate, or a "
                "--reward-limit, usually helps"
            )
        return priorities

    def save_state(self) -> dict[str, NDArray]:
        """Between blocks."""
        return {"taken": self._taken.copy(), "best": self._best.copy()}

    def load_state(self, state: dict[str, NDArray], next_frame: int) -> None:
        """Puts back what `save_state` returned, in blocks of another length too; `next_frame` is the recorder's."""
        length = min(len(self._taken), len(state["taken"]))
        frames = np.arange(max(0, next_frame - length), next_frame)
        for own, saved in ((self._taken, state["taken"]), (self._best, state["best"])):
            own[frames % len(own)] = saved[frames % len(saved)]
