"""Cuts: who owns which state, and where bounds go when visits are uneven."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfleet.errors import QfleetError
from qfleet.tabular.cut import (
    Cut,
    cut_blocks,
    cut_by_load,
    cut_by_owners,
    imbalance,
    owners_by_graph,
    read_owners,
)


def check_is_a_partition(cut: Cut) -> None:
    """Every state has one owner, and all that is asked of a cut agrees with that."""
    states = np.arange(cut.num_states)
    owners = cut.owners(states)
    for rank in range(cut.num_workers):
        own = cut.states(rank)
        assert len(own) == cut.num_rows(rank) == (owners == rank).sum()
        assert (owners[own] == rank).all()
        np.testing.assert_array_equal(
            cut.positions_of(own), np.arange(cut.bounds[rank], cut.bounds[rank + 1])
        )
    np.testing.assert_array_equal(np.sort(cut.positions_of(states)), states)


@given(st.integers(1, 50), st.integers(1, 9))
def test_blocks(num_states: int, num_workers: int) -> None:
    cut = cut_blocks(num_states, num_workers)
    check_is_a_partition(cut)
    sizes = np.diff(cut.bounds)
    assert sizes.max() - sizes.min() <= 1 and cut.num_workers == num_workers
    assert (np.diff(cut.owners(np.arange(num_states))) >= 0).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_owners(given: list[int]) -> None:
    cut = cut_by_owners(np.array(given), 5)
    check_is_a_partition(cut)
    np.testing.assert_array_equal(cut.owners(np.arange(len(given))), given)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.lists(st.integers(0, 1000), min_size=64, max_size=64),
    st.integers(0, 3),
)
def test_moved_bounds_are_a_cut_and_as_even_as_its_blocks_allow(
    given: list[int], loads: list[int], shift: int
) -> None:
    """No worker has more than its fair share and a block."""
    cut = cut_by_owners(np.array(given), 5)
    load = np.array(loads[: (len(given) >> shift) + 1])
    load[-1] *= bool(len(given) % (1 << shift))  # a block of no positions is never visited
    moved = cut_by_load(cut, load, shift)
    check_is_a_partition(moved)
    assert moved.positions is cut.positions
    fair = load.sum() / 5
    assert imbalance(moved, load, shift) * fair <= fair + load.max() + 1e-9
    assert imbalance(moved, load, shift) >= 1 - 1e-12


def test_imbalance_is_the_largest_share_over_the_mean() -> None:
    cut = cut_blocks(8, 2)
    load = np.array([9, 0, 0, 0, 1, 1, 1, 0, 0])
    assert imbalance(cut, load, 0) == 9 * 2 / 12
    assert cut_by_load(cut, load, 0).bounds == (0, 1, 8)
    assert imbalance(cut, np.zeros(9, int), 0) == 1.0
    assert imbalance(cut_blocks(8, 4), np.array([8, 0, 0, 0, 0]), 1) == 4.0


def test_load_moves_bounds_along_the_order_of_a_cut() -> None:
    """States 1, 3, 5, 7 are all that is visited, and all of the second worker."""
    cut = cut_by_owners(np.array([0, 1] * 4), 2)
    moved = cut_by_load(cut, np.array([0, 0, 0, 0, 5, 5, 5, 5, 0]), 0)
    assert moved.bounds == (0, 6, 8)
    assert moved.owners(np.arange(8)).tolist() == [0, 0, 0, 0, 0, 1, 0, 1]


def test_a_graph_of_two_halves_is_cut_between_them() -> None:
    """Two cliques of six, joined by one edge."""
    joined = np.kron(np.eye(2, dtype=int), 1 - np.eye(6, dtype=int))
    joined[5, 6] = joined[6, 5] = 1
    offsets = np.concatenate([[0], joined.sum(axis=1).cumsum()])
    owners = owners_by_graph(offsets, np.nonzero(joined)[1].astype(np.int32), 2)
    assert len(set(owners[:6])) == len(set(owners[6:])) == 1 and owners[0] != owners[6]
    assert not owners_by_graph(offsets, np.nonzero(joined)[1].astype(np.int32), 1).any()


def test_a_file_of_owners(tmp_path: Path) -> None:
    path = tmp_path / "owners.npy"
    np.save(path, np.array([2, 0, 1, 1], np.uint8))
    owners = read_owners(str(path), 4, 3)
    assert owners.tolist() == [2, 0, 1, 1] and owners.dtype == np.int64


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, int), r"of shape \(3,\); it must hold 4 whole numbers"),
        (np.zeros((4, 1), int), r"of shape \(4, 1\)"),
        (np.zeros(4), "holds float64"),
        (np.array([0, 0, 3, 0]), "gives state 2 to worker 3; workers are 0 to 2"),
        (np.array([0, -1, 0, 0]), "gives state 1 to worker -1"),
        (np.array([{}, {}, {}, {}]), r"it must be a \.npy file"),
        (None, r"it must be a \.npy file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(array, words: str, tmp_path: Path) -> None:
    path = tmp_path / "owners.npy"
    if array is None:
        path.write_text("0 1 2 0")
    else:
        np.save(path, array, allow_pickle=True)
    for name in (path, tmp_path / "nothing.npy") if array is None else (path,):
        with pytest.raises(QfleetError, match=words) as raised:
            read_owners(str(name), 4, 3)
        assert "\n" not in str(raised.value)
