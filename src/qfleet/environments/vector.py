"""The one interface through which everything else sees environments, whatever engine steps them.

Engines differ in when they reset an environment whose episode has ended (Gymnasium's next-step and
same-step autoreset, EnvPool's own). Here the differences end: a `Step` says for every environment
whether it was stepped at all, whether its episode ended, and what its true last observation was.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ObservationLayout:
    """How one observation lies in an array: what the replay stores and the network receives."""

    shape: tuple[int, ...]
    """Shape of one observation, (features,) or (height, width, channels) or (stack, height, width)."""
    dtype: np.dtype
    """float32 for vectors, uint8 for images (and for booleans)."""
    is_image: bool
    """Whether the three axes are an image's; then `channels_last` says which axis is which."""
    channels_last: bool = False
    """(height, width, channels) if true, else (channels, height, width)."""
    scale: float = 1.0
    """What the network multiplies an image by: 1/255 for one of 0 to 255, 1 for a boolean grid."""
    bounds: tuple[tuple[float, float], ...] = ()
    """(lowest, highest) of each feature of a vector, infinite where the space sets no useful bound; empty: none."""

    @property
    def size(self) -> int:
        """Numbers in one observation."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Step:
    """What one call of `VectorEnvironment.step` produced.

    The arrays keep their contents through the next call (so that a transition's two observations can be
    held at once) and may be overwritten by the one after.
    """

    observations: NDArray
    """(num_envs, *shape): what to act on next; where the episode ended and `observations` is not yet
    the next episode's first (next-step autoreset) the next call resets and its action is ignored."""
    rewards: NDArray[np.float64]
    """(num_envs,)"""
    terminated: NDArray[np.bool_]
    """(num_envs,)"""
    truncated: NDArray[np.bool_]
    """(num_envs,)"""
    final_observations: NDArray
    """(num_envs, *shape): the episode's true last observation; defined where terminated or truncated."""
    stepped: NDArray[np.bool_]
    """(num_envs,): false where the call was consumed by an autoreset: no step, no transition;
    `observations` holds the new episode's first observation there."""
    started: NDArray[np.bool_]
    """(num_envs,): true where `observations` is the first observation of a new episode."""
    action_masks: NDArray[np.bool_] | None
    """(num_envs, num_actions): the actions allowed in `observations`; None if the environment masks none."""
    final_action_masks: NDArray[np.bool_] | None
    """(num_envs, num_actions): the actions allowed in `final_observations`, where the episode ended."""


class VectorEnvironment(ABC):
    """`num_envs` environments stepped together."""

    num_envs: int
    num_actions: int
    layout: ObservationLayout
    engine: str
    """The engine's name, as `--engine` takes it."""
    frame_stack: int
    """How many of the latest single frames one network input is made of, the oldest first; before an
    episode's k-th frame its first is repeated. Environments yield single frames; 1: no stacking."""

    @abstractmethod
    def reset(self, seed: int) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """Starts a new episode everywhere: observations (num_envs, *shape) and action masks or None.

        Environment i's own seed is derived from (seed, i).
        """

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> Step:
        """Steps every environment with `actions` (num_envs,), counted from 0.

        Raises NonFiniteError naming the environment and its step, if a reward or observation is not finite.
        """

    @abstractmethod
    def save_state(self) -> dict[str, NDArray] | None:
        """Everything the next steps depend on, random states included; None where the engine cannot tell."""

    @abstractmethod
    def load_state(self, state: dict[str, NDArray]) -> None:
        """Puts back what `save_state` returned."""

    @abstractmethod
    def close(self) -> None:
        """Ends processes and frees shared memory; safe to call twice."""
