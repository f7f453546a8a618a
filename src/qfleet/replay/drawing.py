"""Drawing many minibatches at once from several replays as if they were one."""

import numpy as np

from qfleet.kernels import STREAM_SAMPLING, kernel, uniform
from qfleet.replay.replay import copy_stack
from qfleet.replay.sum_tree import find_leaves, stratified_masses


@kernel
def uniform_masses(total, seed, counter, masses):
    """Fills `masses` (num_batches, part): a batch's draws, each uniform in [0, total) and whole."""
    for b in range(masses.shape[0]):
        for i in range(masses.shape[1]):
            masses[b, i] = np.floor(uniform(seed, STREAM_SAMPLING, counter + b, i) * total)


@kernel
def prioritized_masses(total, seed, counter, masses):
    """Fills `masses` (num_batches, part): a batch's draws, one from each of as many equal slices of `total`."""
    for b in range(masses.shape[0]):
        stratified_masses(total, seed, counter + b, masses[b])


def pools_of(masses, ends):
    """Which pool each of `masses` falls into, and how far: pool k covers [ends[k - 1], ends[k]).

    `masses` (num,) float64, `ends` (num_pools,) float64 ascending. Returns (num,) int32 and (num,) float64. A pool that
    covers nothing is never chosen; what rounding pushes past the end falls into the last that covers something.
    """
    last = np.searchsorted(ends, ends[-1], side="left")
    pools = np.minimum(np.searchsorted(ends, masses, side="right"), last)
    begins = np.concatenate([[0.0], ends[:-1]])
    return pools.astype(np.int32), masses - begins[pools]


@kernel
def rows_at(view, masses, rows, priorities):
    """Fills `rows` and their `priorities` (num,) from masses within one replay; those are 1 where all are alike."""
    if len(view.tree) == 0:
        for i in range(len(rows)):
            rows[i] = view.first + np.int64(masses[i])
            priorities[i] = 1.0
        return
    find_leaves(view.tree, view.tree_offsets, masses, rows)
    capacity = len(view.frame)
    for i in range(len(rows)):
        priorities[i] = view.tree[rows[i]]
        rows[i] = view.first + (rows[i] - view.first) % capacity


@kernel
def take_rows(view, rows, places, observations, next_action_masks, actions, rewards, discounts):
    """Copies what `rows` (num,) hold to `places` (num,) of the batches laid end to end; the arrays are a Sample's."""
    part, capacity, num_frames = actions.shape[1], len(view.frame), len(view.back)
    for k in range(len(rows)):
        b, i, slot = places[k] // part, places[k] % part, rows[k] % capacity
        actions[b, i] = view.action[slot]
        rewards[b, i] = view.reward[slot]
        discounts[b, i] = view.discount[slot]
        copy_stack(view, view.frame[slot], observations[b, i])
        copy_stack(view, view.next_frame[slot], observations[b, part + i])
        if view.action_mask.shape[1] > 0:
            next_action_masks[b, i, :] = view.action_mask[view.next_frame[slot] % num_frames]
