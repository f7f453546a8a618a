"""A tree of sums over priorities: draw an item in proportion to its priority, change priorities, in O(log n).

Each node sums sixteen children, so that a million leaves are five levels deep and a node's children fill two
cache lines. An inner node is always the sum of its children in their order, never adjusted by a difference:
a tree rebuilt from its leaves equals, bit for bit, the one that grew (and rounding never accumulates).

Layout: one float64 array holding the levels one after the other, leaves first; `offsets[l]` is where level
l begins and `offsets[-1]` the length. Every level is padded with zeros to a multiple of sixteen.
"""

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import STREAM_SAMPLING, kernel, uniform

FAN_OUT = 16


def tree_offsets(num_leaves: int) -> NDArray[np.int64]:
    """Where each level of a tree over `num_leaves` leaves begins, and the total length last."""
    offsets, size = [0], num_leaves
    while True:
        padded = -(-size // FAN_OUT) * FAN_OUT
        offsets.append(offsets[-1] + padded)
        size = padded // FAN_OUT
        if size == 1:
            return np.array([*offsets, offsets[-1] + 1], dtype=np.int64)


@kernel
def tree_total(tree):
    """The sum of all priorities."""
    return tree[-1]


@kernel
def _sum_children(tree, start):
    total = 0.0
    for child in range(start, start + FAN_OUT):
        total += tree[child]
    return total


@kernel
def refresh_parents(tree, offsets, leaves):
    """Recomputes the sums above `leaves` (num,) int64; leaves in ascending order share the work."""
    nodes = leaves.copy()
    num = len(nodes)
    for level in range(len(offsets) - 2):
        last, kept = -1, 0
        for i in range(num):
            parent = nodes[i] // FAN_OUT
            if parent != last:
                tree[offsets[level + 1] + parent] = _sum_children(tree, offsets[level] + parent * FAN_OUT)
                nodes[kept] = parent
                kept += 1
                last = parent
        num = kept


@kernel
def set_priorities(tree, offsets, leaves, priorities):
    """Writes `priorities` (num,) at `leaves` (num,) int64 and recomputes the sums above them."""
    for i in range(len(leaves)):
        tree[leaves[i]] = priorities[i]
    refresh_parents(tree, offsets, leaves)


@kernel
def set_range(tree, offsets, first_slot, num, capacity, priority):
    """Writes one priority at `num` slots from `first_slot` on, around the end of the ring."""
    leaves = np.empty(num, np.int64)
    for i in range(num):
        leaves[i] = (first_slot + i) % capacity
        tree[leaves[i]] = priority
    refresh_parents(tree, offsets, leaves)


@kernel
def rebuild(tree, offsets):
    """Computes every inner node from the leaves."""
    for level in range(len(offsets) - 2):
        for parent in range((offsets[level + 1] - offsets[level]) // FAN_OUT):
            tree[offsets[level + 1] + parent] = _sum_children(tree, offsets[level] + parent * FAN_OUT)


@kernel
def _passed(first, second, third, mass):
    """How many of three ascending running sums `mass` has passed, and the last of those sums; without a branch."""
    last = first if first <= mass else 0.0
    last = second if second <= mass else last
    last = third if third <= mass else last
    return np.int64(first <= mass) + np.int64(second <= mass) + np.int64(third <= mass), last


@kernel
def _sum_four(tree, start):
    return tree[start] + tree[start + 1] + tree[start + 2] + tree[start + 3]


@kernel
def _descend(tree, offset, node, mass):
    """The child of `node` in which the running sum of priorities passes `mass`, and the mass left over.

    First which four children, then which of the four: short sums and nothing to mispredict. Rounding can lead to a
    child of zero priority.
    """
    start = offset + node * FAN_OUT
    first = _sum_four(tree, start)
    second = first + _sum_four(tree, start + 4)
    group, passed = _passed(first, second, second + _sum_four(tree, start + 8), mass)
    mass -= passed
    start += 4 * group
    second = tree[start] + tree[start + 1]
    child, passed = _passed(tree[start], second, second + tree[start + 2], mass)
    return node * FAN_OUT + 4 * group + child, mass - passed


@kernel
def find_leaf(tree, offsets, mass):
    """The leaf at which the running sum of priorities passes `mass`; never one of zero priority.

    Where rounding leaves more mass than the children hold, the last child that has any is taken.
    """
    node = 0
    for level in range(len(offsets) - 3, -1, -1):
        start = offsets[level] + node * FAN_OUT
        chosen = -1
        for child in range(FAN_OUT):
            weight = tree[start + child]
            if weight > 0.0:
                chosen = child
                if mass < weight:
                    break
                mass -= weight
        node = node * FAN_OUT + chosen
    return node


@kernel
def find_leaves(tree, offsets, masses, leaves):
    """Fills `leaves` (num,) int64 with those at which the running sum of priorities passes `masses` (num,) float64."""
    num = len(leaves)
    left = masses.copy()
    for i in range(num):
        leaves[i] = 0
    # Level by level rather than leaf by leaf: the cache misses of a level overlap.
    for level in range(len(offsets) - 3, -1, -1):
        offset = offsets[level]
        for i in range(num):
            leaves[i], left[i] = _descend(tree, offset, leaves[i], left[i])
    for i in range(num):
        if not tree[leaves[i]] > 0.0:
            leaves[i] = find_leaf(tree, offsets, masses[i])


@kernel
def stratified_masses(total, seed, counter, masses):
    """Fills `masses` (num,) with one uniform draw from each of num equal slices of `total`, ascending.

    Schaul et al. 2016 (arXiv 1511.05952), appendix B.2.1.
    """
    num = len(masses)
    for i in range(num):
        masses[i] = (i + uniform(seed, STREAM_SAMPLING, counter, i)) / num * total


@kernel
def sample_leaves(tree, offsets, seed, counter, leaves):
    """Fills `leaves` (num,) with a stratified draw, in ascending order."""
    masses = np.empty(len(leaves), np.float64)
    stratified_masses(tree_total(tree), seed, counter, masses)
    find_leaves(tree, offsets, masses, leaves)
