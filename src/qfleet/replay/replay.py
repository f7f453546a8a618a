"""The replay: a ring of frames, a ring of transitions that refer to them, and a tree of priorities.

The living transitions are always the contiguous numbers [first, end). A transition dies when its own slot
is reused or when the oldest frame that it needs (the far end of its stack) is about to be overwritten,
whichever comes first; its priority is zero from then on.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.vector import ObservationLayout
from qfleet.errors import QfleetError
from qfleet.kernels import STREAM_SAMPLING, copy_entries, kernel, uniform
from qfleet.memory import available_memory_bytes, readable_bytes
from qfleet.replay.recorder import Block, frame_fields, transition_fields
from qfleet.replay.ring import Ring, bytes_per_row
from qfleet.replay.sum_tree import rebuild, sample_leaves, set_priorities, set_range, tree_offsets, tree_total


@dataclass(frozen=True)
class ReplayConfig:
    """How much is kept and how it is drawn."""

    replay_capacity: int = 100_000
    """Transitions kept (never counted in anything else)."""
    priority_exponent: float = 0.0
    """Draw in proportion to |TD error| to this power (Schaul 2016: 0.6); 0 draws uniformly."""
    importance_exponent: float = 0.4
    """Importance weights' exponent at the start of prioritized training; it grows linearly to 1."""
    priority_floor: float = 1e-6
    """Added to |TD error| before the exponent, so that every living transition can be drawn."""

    def __post_init__(self) -> None:
        if self.replay_capacity < 1:
            raise QfleetError(f"replay_capacity is {self.replay_capacity}; it must be at least 1 transition")
        for name in ("priority_exponent", "importance_exponent"):
            if not 0 <= getattr(self, name) <= 1:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 < self.priority_floor < math.inf:
            raise QfleetError(f"priority_floor is {self.priority_floor}; it must be above 0")


class ReplayView(NamedTuple):
    """The arrays of a replay as kernels see them, and which transitions live."""

    observation: NDArray
    back: NDArray
    action_mask: NDArray
    frame: NDArray
    next_frame: NDArray
    action: NDArray
    reward: NDArray
    discount: NDArray
    first: int
    end: int
    frame_stack: int
    tree: NDArray
    """float64, empty where transitions are drawn uniformly."""
    tree_offsets: NDArray
    running: NDArray
    """(1,) float64: the largest priority ever given, which new transitions get."""


class Batch(NamedTuple):
    """One minibatch; the first half of `observations` are those acted on, the second half the next ones."""

    rows: NDArray
    """(batch,) int64: transition numbers."""
    observations: NDArray
    """(2 * batch, frame_stack * size) of the observations' dtype."""
    next_action_masks: NDArray
    """(batch, num_actions) bool, or (batch, 0) where nothing is masked."""
    actions: NDArray
    """(batch,) int32"""
    rewards: NDArray
    """(batch,) float32"""
    discounts: NDArray
    """(batch,) float32"""
    weights: NDArray
    """(batch,) float32: importance weights, the largest is 1."""


def empty_batch(batch_size: int, layout: ObservationLayout, frame_stack: int, num_mask_actions: int) -> Batch:
    """Room for a minibatch."""
    return Batch(
        np.zeros(batch_size, np.int64),
        np.zeros((2 * batch_size, frame_stack * layout.size), layout.dtype),
        np.ones((batch_size, num_mask_actions), np.bool_),
        np.zeros(batch_size, np.int32),
        np.zeros(batch_size, np.float32),
        np.zeros(batch_size, np.float32),
        np.ones(batch_size, np.float32),
    )


@kernel
def copy_stack(view, number, out):
    """Writes the stack that ends with frame `number` into `out` (frame_stack * size,), oldest first."""
    capacity, size = view.observation.shape
    slot = number % capacity
    for position in range(view.frame_stack - 1, -1, -1):
        copy_entries(out, position * size, view.observation, slot * size, size)
        if position > 0:
            slot -= view.back[slot]
            if slot < 0:
                slot += capacity


@kernel
def _draw_uniform(view, seed, counter, rows):
    num_alive = view.end - view.first
    for i in range(len(rows)):
        rows[i] = view.first + np.int64(uniform(seed, STREAM_SAMPLING, counter, i) * num_alive)


@kernel
def _draw_prioritized(view, seed, counter, importance_exponent, batch):
    rows, capacity = batch.rows, len(view.frame)
    sample_leaves(view.tree, view.tree_offsets, seed, counter, rows)
    mean_priority = tree_total(view.tree) / (view.end - view.first)
    exponent = np.float32(-importance_exponent)
    largest = np.float32(0)
    for i in range(len(rows)):
        weight = np.float32(view.tree[rows[i]] / mean_priority) ** exponent
        batch.weights[i] = weight
        largest = max(largest, weight)
        rows[i] = view.first + (rows[i] - view.first) % capacity
    for i in range(len(rows)):
        batch.weights[i] /= largest


@kernel
def _take_transitions(view, batch):
    """Copies what the drawn rows hold; returns the frames they refer to, (2 * batch,), next frames second."""
    num, capacity = len(batch.rows), len(view.frame)
    frames = np.empty(2 * num, np.int64)
    # Rows lie anywhere in memory. A first loop that reads next to nothing of each waits for many of them at once.
    for i in range(num):
        frames[i] = view.frame[batch.rows[i] % capacity]
    for i in range(num):
        slot = batch.rows[i] % capacity
        frames[num + i] = view.next_frame[slot]
        batch.actions[i] = view.action[slot]
        batch.rewards[i] = view.reward[slot]
        batch.discounts[i] = view.discount[slot]
    return frames


@kernel
def _take_frames(view, frames, observations):
    """Writes the stack that ends at each frame into the rows of `observations`."""
    capacity = len(view.back)
    for i in range(len(frames)):  # as in _take_transitions
        observations[i, 0] = view.observation[frames[i] % capacity, 0]
    for i in range(len(frames)):
        copy_stack(view, frames[i], observations[i])


@kernel
def draw(view, seed, counter, importance_exponent, batch):
    """Fills `batch` with the minibatch of update number `counter`.

    Importance weights (N P(i))^-beta, divided by the batch's largest: Schaul et al. 2016, section 3.4.
    """
    if len(view.tree) > 0:
        _draw_prioritized(view, seed, counter, importance_exponent, batch)
    else:
        _draw_uniform(view, seed, counter, batch.rows)
    fill(view, batch)


@kernel
def fill(view, batch):
    """Fills the rest of `batch` with what its rows hold; the weights stay."""
    frames = _take_transitions(view, batch)
    _take_frames(view, frames, batch.observations)
    if view.action_mask.shape[1] > 0:
        for i in range(len(batch.rows)):
            batch.next_action_masks[i, :] = view.action_mask[frames[len(batch.rows) + i] % len(view.back)]


@kernel
def update_priorities(view, rows, td_errors, exponent, floor):
    """Gives the drawn `rows` (batch,) the priority (|TD error| + floor)^exponent; nothing if uniform."""
    if len(view.tree) == 0:
        return
    capacity, num = len(view.frame), len(rows)
    leaves = np.empty(num, np.int64)
    priorities = np.empty(num, np.float64)
    largest = view.running[0]
    for i in range(num):
        leaves[i] = rows[i] % capacity
        priorities[i] = np.float32(abs(td_errors[i]) + floor) ** np.float32(exponent)
        largest = max(largest, priorities[i])
    view.running[0] = largest
    set_priorities(view.tree, view.tree_offsets, leaves, priorities)


@final
class Replay:
    """The newest `capacity` transitions of one recorder, uniform or prioritized."""

    def __init__(
        self,
        config: ReplayConfig,
        layout: ObservationLayout,
        *,
        frame_stack: int,
        num_mask_actions: int,
        num_envs: int,
        n_step: int,
        max_steps_per_block: int,
        num_replays: int = 1,
    ) -> None:
        """Takes all its memory at once; raises QfleetError, before taking any, if the machine has not enough.

        `num_replays` of its kind are to be made, this one and others after it: there must be room for all.
        """
        self.config, self.frame_stack = config, frame_stack
        _refuse_if_too_small(config.replay_capacity, num_envs * (max_steps_per_block + n_step))
        # Transitions of different environments do not need their frames in exactly the order in which they came.
        self._disorder = 4 * num_envs * (n_step + frame_stack + 2)
        capacity = config.replay_capacity
        # Truncated episodes take one frame more than they have transitions: room for one in sixteen, and for
        # a block of nothing else.
        num_frames = capacity + capacity // 16 + 2 * self._disorder + 2 * num_envs * max_steps_per_block
        fields = frame_fields(layout, num_mask_actions)
        self.tree_offsets = tree_offsets(capacity)
        num_nodes = int(self.tree_offsets[-1]) if config.priority_exponent > 0 else 0
        self.memory_bytes = (
            num_frames * bytes_per_row(fields) + capacity * bytes_per_row(transition_fields()) + 8 * num_nodes
        )
        _refuse_if_too_large(self.memory_bytes * num_replays, capacity * num_replays)
        self.frames = Ring(num_frames, fields)
        self.transitions = Ring(capacity, transition_fields())
        self.tree = np.zeros(num_nodes, np.float64)
        self.running = np.ones(1, np.float64)
        """(1,): the largest priority ever given; replays that are drawn from as one share it."""
        self.first = 0
        """Number of the oldest living transition."""

    def __len__(self) -> int:
        """Living transitions."""
        return self.transitions.num_rows - self.first

    def append(self, block: Block) -> None:
        """Adds what a recorder gathered; frames must arrive with their numbers in sequence.

        New transitions get the block's priorities, or the largest ever given. A uniform replay needs neither.
        """
        first_new = self.transitions.num_rows
        self.frames.append(block.frames)
        self.transitions.append(block.transitions)
        if len(self.tree) and self.transitions.num_rows > first_new:
            self._prioritize(first_new, block.priorities)
        self._bury(max(self.first, self.transitions.first_row))

    def _prioritize(self, first_new: int, priorities: NDArray[np.float64] | None) -> None:
        num_new, capacity = self.transitions.num_rows - first_new, self.config.replay_capacity
        if priorities is None:
            slot = first_new % capacity
            set_range(self.tree, self.tree_offsets, slot, num_new, capacity, self.running[0])
            return
        self.running[0] = max(self.running[0], priorities.max())
        leaves = np.arange(first_new, first_new + num_new) % capacity
        set_priorities(self.tree, self.tree_offsets, leaves, priorities)

    def _bury(self, first: int) -> None:
        """Moves `first` past the transitions whose frames are, or are about to be, overwritten."""
        oldest_frame = self.frames.first_row + self._disorder
        frame, capacity = self.transitions.columns["frame"], self.config.replay_capacity
        start = first
        if self.frames.num_rows > self.frames.capacity:
            while first < self.transitions.num_rows and frame[first % capacity] < oldest_frame:
                first += 1
        if len(self.tree) and first > start:
            set_range(self.tree, self.tree_offsets, start % capacity, first - start, capacity, 0.0)
        self.first = first

    def view(self) -> ReplayView:
        """The arrays as they stand, for kernels; what is appended later is not in the view."""
        frames, transitions = self.frames.columns, self.transitions.columns
        return ReplayView(
            frames["observation"],
            frames["back"],
            frames["action_mask"],
            transitions["frame"],
            transitions["next_frame"],
            transitions["action"],
            transitions["reward"],
            transitions["discount"],
            self.first,
            self.transitions.num_rows,
            self.frame_stack,
            self.tree,
            self.tree_offsets,
            self.running,
        )

    def save_state(self) -> dict[str, Any]:
        """All of it, in memory; a driver's own replay is written as streams instead."""
        rings = {"frames": self.frames, "transitions": self.transitions}
        rows = {
            name: {"first": ring.first_row, "rows": ring.read(ring.first_row, ring.num_rows)}
            for name, ring in rings.items()
        }
        return rows | {"priorities": self.save_priorities()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `save_state` returned."""
        for name, ring in (("frames", self.frames), ("transitions", self.transitions)):
            ring.num_rows = int(state[name]["first"])
            ring.append(state[name]["rows"])
        self.load_priorities(state["priorities"])

    def save_priorities(self) -> dict[str, NDArray]:
        """All that the two rings do not hold."""
        return {
            "first": np.array(self.first),
            "priorities": self.tree[: self.config.replay_capacity].copy(),
            "running": self.running.copy(),
        }

    def load_priorities(self, state: dict[str, NDArray]) -> None:
        """Puts back what `save_priorities` returned, after the rings were filled."""
        self.first = int(state["first"])
        self.running[:] = state["running"]
        if len(self.tree):
            self.tree[: self.config.replay_capacity] = state["priorities"]
            rebuild(self.tree, self.tree_offsets)


def _refuse_if_too_small(capacity: int, largest_block: int) -> None:
    if capacity < largest_block:
        raise QfleetError(
            f"replay_capacity is {capacity}; one block of steps can bring {largest_block} transitions: "
            "it must hold those, or --block-steps or --num-envs be smaller"
        )


def _refuse_if_too_large(needed: int, capacity: int) -> None:
    available = available_memory_bytes()
    if needed > 0.9 * available:
        fitting = int(capacity * 0.8 * available / needed)
        raise QfleetError(
            f"a replay of {capacity:,} transitions needs {readable_bytes(needed)} of memory and "
            f"{readable_bytes(available)} are free; --replay-capacity {fitting} would fit"
        )
