"""The sum tree: rebuilt as grown, never a leaf of zero priority, draws in proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qfleet.replay.sum_tree import (
    find_leaf,
    rebuild,
    sample_leaves,
    set_priorities,
    set_range,
    tree_offsets,
    tree_total,
)

SIZES = [1, 2, 15, 16, 17, 255, 256, 257, 4097]
CHANCE = 1e-5

priorities_strategy = st.one_of(
    st.just(0.0), st.floats(1e-12, 1e-3), st.floats(0.1, 10.0), st.floats(1e6, 1e12)
)


def tree_of(priorities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offsets = tree_offsets(len(priorities))
    tree = np.zeros(offsets[-1])
    tree[: len(priorities)] = priorities
    rebuild(tree, offsets)
    return tree, offsets


@pytest.mark.parametrize("num_leaves", SIZES)
def test_grown_equals_rebuilt_bit_for_bit(num_leaves: int) -> None:
    generator = np.random.default_rng(num_leaves)
    offsets = tree_offsets(num_leaves)
    grown = np.zeros(offsets[-1])
    for _ in range(60):
        leaves = generator.integers(0, num_leaves, generator.integers(1, 65))
        if generator.random() < 0.5:
            leaves.sort()
        priorities = 10.0 ** generator.uniform(-9, 6, len(leaves))
        set_priorities(grown, offsets, leaves, priorities)
        first, num = int(generator.integers(0, num_leaves)), int(generator.integers(1, num_leaves + 1))
        set_range(grown, offsets, first, min(num, 40), num_leaves, generator.choice([0.0, 1.0, 3.3]))
    rebuilt, _ = tree_of(grown[:num_leaves])
    assert grown.tobytes() == rebuilt.tobytes()
    assert tree_total(grown) == pytest.approx(grown[:num_leaves].sum(), rel=1e-12)


def test_the_last_of_repeated_leaves_counts() -> None:
    offsets = tree_offsets(20)
    tree = np.zeros(offsets[-1])
    set_priorities(tree, offsets, np.array([18, 3, 18]), np.array([1.0, 2.0, 5.0]))
    assert tree[18] == 5 and tree_total(tree) == 7


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(priorities_strategy, min_size=1, max_size=300).filter(any), st.integers(0, 2**40))
def test_no_leaf_of_zero_priority_is_ever_drawn(priorities: list[float], counter: int) -> None:
    tree, offsets = tree_of(np.array(priorities))
    leaves = np.zeros(64, np.int64)
    sample_leaves(tree, offsets, 1, counter, leaves)
    total = tree_total(tree)
    for mass in (0.0, total, np.nextafter(total, np.inf), 2 * total):
        leaves = np.append(leaves, find_leaf(tree, offsets, mass))
    assert leaves.min() >= 0 and leaves.max() < len(priorities)
    assert (tree[leaves] > 0).all()


@pytest.mark.parametrize("num_leaves", SIZES)
def test_independent_draws_follow_the_priorities(num_leaves: int) -> None:
    priorities = np.random.default_rng(2).uniform(0.5, 3, num_leaves)
    priorities[1::3] = 0
    assert_proportional(priorities, draws_of(priorities, batch_size=1, num_batches=20 * num_leaves + 2000))


def draws_of(priorities: np.ndarray, *, batch_size: int, num_batches: int) -> np.ndarray:
    tree, offsets = tree_of(priorities)
    leaves = np.zeros((num_batches, batch_size), np.int64)
    for counter in range(num_batches):
        sample_leaves(tree, offsets, 5, counter, leaves[counter])
    return leaves


def assert_proportional(priorities: np.ndarray, leaves: np.ndarray) -> None:
    counts = np.bincount(leaves.ravel(), minlength=len(priorities))
    assert (counts[priorities == 0] == 0).all()
    alive = priorities > 0
    if alive.sum() > 1:
        expected = priorities[alive] / priorities.sum() * leaves.size
        assert stats.chisquare(counts[alive], expected).pvalue > CHANCE


def test_stratified_draws_are_unbiased_and_spread() -> None:
    """Every stratum of the total mass gives one draw, so counts scatter less than independent ones."""
    priorities = np.random.default_rng(4).uniform(0.1, 2, 50)
    leaves = draws_of(priorities, batch_size=32, num_batches=4000)
    expected = priorities / priorities.sum() * leaves.size
    counts = np.bincount(leaves.ravel(), minlength=50)
    # Independent draws' standard deviation bounds the stratified one's.
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()
    assert (np.diff(leaves, axis=1) >= 0).all()
    cumulative = np.concatenate(([0.0], np.cumsum(priorities))) / priorities.sum()
    stratum = np.arange(32)
    assert (cumulative[leaves] <= (stratum + 1) / 32 + 1e-12).all()
    assert (cumulative[leaves + 1] >= stratum / 32 - 1e-12).all()
