"""From steps to what a replay stores: frames, each once, and n-step transitions that refer to them.

A frame is one observation (without its stack). It knows how far back the previous frame of its episode
lies, so a stack is rebuilt by walking back, and at an episode's first frame that frame is repeated.
A transition refers to two frames by number. Its reward is the n-step return R = sum_k gamma^k r_{t+k} and
its discount what multiplies the bootstrap: gamma^m after m rewards, 0 if the episode terminated. At an
episode's end the waiting transitions are shortened; none crosses a reset. A truncated episode's last
observation is stored as a frame of its own; a terminated one's is never needed.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.vector import ObservationLayout, Step
from qfleet.kernels import kernel
from qfleet.replay.ring import Fields


def frame_fields(layout: ObservationLayout, num_mask_actions: int) -> Fields:
    """Columns of a frame; `num_mask_actions` is 0 where the environment masks no action."""
    return {
        "observation": ((layout.size,), layout.dtype),
        "back": ((), np.dtype(np.int32)),
        "action_mask": ((num_mask_actions,), np.dtype(np.bool_)),
    }


def transition_fields() -> Fields:
    """Columns of a transition."""
    return {
        "frame": ((), np.dtype(np.int64)),
        "next_frame": ((), np.dtype(np.int64)),
        "action": ((), np.dtype(np.int32)),
        "reward": ((), np.dtype(np.float32)),
        "discount": ((), np.dtype(np.float32)),
    }


class _Frames(NamedTuple):
    observation: NDArray
    back: NDArray
    action_mask: NDArray


class _Transitions(NamedTuple):
    frame: NDArray
    next_frame: NDArray
    action: NDArray
    reward: NDArray
    discount: NDArray


class Tails(NamedTuple):
    """Each environment's transitions that still wait for rewards, oldest first."""

    frame: NDArray
    """(num_envs, n_step) int64: number of the frame acted on."""
    action: NDArray
    """(num_envs, n_step) int32"""
    reward: NDArray
    """(num_envs, n_step) float64"""
    length: NDArray
    """(num_envs,) int64: how many wait."""
    current: NDArray
    """(num_envs,) int64: number of the frame to act on; -1 between episodes."""


@dataclass(frozen=True)
class Block:
    """Consecutive frames and the transitions completed along with them, as columns."""

    frames: dict[str, NDArray]
    transitions: dict[str, NDArray]
    first_frame: int | None = None
    """Number of the first frame, by which whoever gets blocks from afar sees that one is missing; None: not known."""
    priorities: NDArray[np.float64] | None = None
    """(transitions,): what a prioritized replay is to draw them by at first; None: by the largest ever given."""


# counts[0]: frames written to the block; counts[1]: transitions; counts[2]: number of the next frame.


@kernel
def _append_frame(frames, counts, observation, action_mask, previous):
    row, number = counts[0], counts[2]
    frames.observation[row, :] = observation
    frames.action_mask[row, :] = action_mask
    frames.back[row] = number - previous if previous >= 0 else 0
    counts[0] += 1
    counts[2] += 1
    return number


@kernel
def _emit(transitions, counts, tails, e, position, next_frame, discount, terminated):
    """Completes the waiting transition at `position` with all the rewards after it."""
    row = counts[1]
    total, power = 0.0, 1.0
    for k in range(position, tails.length[e]):
        total += power * tails.reward[e, k]
        power *= discount
    transitions.frame[row] = tails.frame[e, position]
    transitions.next_frame[row] = tails.frame[e, position] if terminated else next_frame
    transitions.action[row] = tails.action[e, position]
    transitions.reward[row] = total
    transitions.discount[row] = 0.0 if terminated else power
    counts[1] += 1


@kernel
def _flush(transitions, counts, tails, e, next_frame, discount, terminated):
    for position in range(tails.length[e]):
        _emit(transitions, counts, tails, e, position, next_frame, discount, terminated)
    tails.length[e] = 0


@kernel
def _drop_oldest(tails, e):
    for k in range(1, tails.length[e]):
        tails.frame[e, k - 1] = tails.frame[e, k]
        tails.action[e, k - 1] = tails.action[e, k]
        tails.reward[e, k - 1] = tails.reward[e, k]
    tails.length[e] -= 1


@kernel
def _push(tails, e, action, reward):
    k = tails.length[e]
    tails.frame[e, k] = tails.current[e]
    tails.action[e, k] = action
    tails.reward[e, k] = reward
    tails.length[e] += 1


@kernel
def _record(frames, transitions, counts, tails, final_frames, actions, step, reward_limit, discount):
    observations, rewards, terminated, truncated, finals, stepped, started, masks, final_masks = step
    n_step = tails.frame.shape[1]
    for e in range(len(actions)):
        if stepped[e]:
            _push(tails, e, actions[e], min(max(rewards[e], -reward_limit), reward_limit))
            if terminated[e]:
                _flush(transitions, counts, tails, e, -1, discount, True)
                tails.current[e] = -1
            elif truncated[e]:
                last = _append_frame(frames, counts, finals[e], final_masks[e], tails.current[e])
                _flush(transitions, counts, tails, e, last, discount, False)
                tails.current[e] = -1
                final_frames[e] = last
            else:
                current = _append_frame(frames, counts, observations[e], masks[e], tails.current[e])
                if tails.length[e] == n_step:
                    _emit(transitions, counts, tails, e, 0, current, discount, False)
                    _drop_oldest(tails, e)
                tails.current[e] = current
        if started[e]:
            tails.current[e] = _append_frame(frames, counts, observations[e], masks[e], -1)


@final
class Recorder:
    """Turns the steps of `num_envs` environments into blocks; holds the n-step tails between blocks."""

    def __init__(
        self,
        num_envs: int,
        layout: ObservationLayout,
        num_mask_actions: int,
        *,
        n_step: int,
        discount: float,
        reward_limit: float = np.inf,
        max_steps_per_block: int,
    ) -> None:
        self._discount, self._reward_limit = discount, reward_limit
        self._no_masks = np.ones((num_envs, num_mask_actions), np.bool_)
        self._size = layout.size
        max_frames = num_envs * (2 * max_steps_per_block + 2)
        max_transitions = num_envs * (max_steps_per_block + n_step)
        self._frames = _Frames(**_empty(frame_fields(layout, num_mask_actions), max_frames))
        self._transitions = _Transitions(**_empty(transition_fields(), max_transitions))
        self._counts = np.zeros(3, np.int64)
        self.final_frames = np.full(num_envs, -1, np.int64)
        """(num_envs,): number of the last frame of each environment's latest truncated episode."""
        self.tails = Tails(
            np.zeros((num_envs, n_step), np.int64),
            np.zeros((num_envs, n_step), np.int32),
            np.zeros((num_envs, n_step), np.float64),
            np.zeros(num_envs, np.int64),
            np.full(num_envs, -1, np.int64),
        )

    def start(self, observations: NDArray, action_masks: NDArray[np.bool_] | None) -> None:
        """Begins an episode everywhere with its first observations (num_envs, *shape)."""
        masks = self._no_masks if action_masks is None else action_masks
        for e, observation in enumerate(observations.reshape(len(observations), self._size)):
            self.tails.current[e] = _append_frame(self._frames, self._counts, observation, masks[e], -1)

    def record(self, actions: NDArray[np.int64], step: Step) -> None:
        """Adds one vector step, taken with `actions` (num_envs,)."""
        masks = self._no_masks if step.action_masks is None else step.action_masks
        final_masks = masks if step.final_action_masks is None else step.final_action_masks
        num = len(actions)
        columns = (
            step.observations.reshape(num, self._size),
            step.rewards,
            step.terminated,
            step.truncated,
            step.final_observations.reshape(num, self._size),
            step.stepped,
            step.started,
            masks,
            final_masks,
        )
        _record(
            self._frames,
            self._transitions,
            self._counts,
            self.tails,
            self.final_frames,
            actions,
            columns,
            self._reward_limit,
            self._discount,
        )

    def settle(self) -> None:
        """Completes what waits with the rewards so far, to bootstrap from the current frame; episodes go on."""
        for e, current in enumerate(self.tails.current):
            _flush(self._transitions, self._counts, self.tails, e, current, self._discount, False)

    def cut(self) -> None:
        """Truncates every running episode at its current frame, as before a reset nobody asked the environment for."""
        self.settle()
        self.tails.current.fill(-1)

    def take(self) -> Block:
        """The block gathered since the last call, copied out; the tails stay."""
        num_frames, num_transitions, next_frame = (int(count) for count in self._counts)
        self._counts[:2] = 0
        return Block(
            {name: column[:num_frames].copy() for name, column in self._frames._asdict().items()},
            {name: column[:num_transitions].copy() for name, column in self._transitions._asdict().items()},
            next_frame - num_frames,
        )

    @property
    def next_frame(self) -> int:
        """Number that the next frame gets."""
        return int(self._counts[2])

    def save_state(self) -> dict[str, NDArray]:
        """The tails and the next frame's number; only between blocks."""
        return {**self.tails._asdict(), "next_frame": self._counts[2:3].copy()}

    def load_state(self, state: dict[str, NDArray]) -> None:
        """Puts back what `save_state` returned."""
        for name, column in self.tails._asdict().items():
            column[:] = state[name]
        self._counts[:] = 0, 0, state["next_frame"][0]


def _empty(fields: Fields, num_rows: int) -> dict[str, NDArray]:
    return {name: np.zeros((num_rows, *shape), dtype) for name, (shape, dtype) in fields.items()}
