"""The counter-based random numbers: uniform, and unrelated from one argument to the next. Copying entries."""

import numpy as np
import pytest
from numba.core.errors import TypingError
from scipy import stats

from qfleet.kernels import (
    STREAM_EXPLORATION,
    STREAM_SAMPLING,
    callable_part,
    copy_entries,
    kernel,
    part,
    uniform,
)

NUM = 100_000
CHANCE = 1e-5
"""Probability that a sound generator fails one of these tests; the seeds are fixed, so it either does or not."""


@kernel
def _along(axis, seed, out):
    for i in range(len(out)):
        if axis == 0:
            out[i] = uniform(seed + i, 1, 0, 0)
        elif axis == 1:
            out[i] = uniform(seed, 1 + i, 0, 0)
        elif axis == 2:
            out[i] = uniform(seed, 1, i, 0)
        else:
            out[i] = uniform(seed, 1, 0, i)


def draws(axis: int, seed: int = 3) -> np.ndarray:
    """(NUM,) draws along one of the four arguments: seed, stream, counter, lane."""
    out = np.empty(NUM)
    _along(axis, seed, out)
    return out


@pytest.mark.parametrize("axis", range(4))
def test_uniform_along_every_argument(axis: int) -> None:
    sample = draws(axis)
    assert sample.min() >= 0 and sample.max() < 1
    counts = np.histogram(sample, 256, (0, 1))[0]
    assert stats.chisquare(counts).pvalue > CHANCE
    assert abs(sample.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / NUM)
    assert abs(sample.var() - 1 / 12) < 4.5 * np.sqrt(1 / 180 / NUM)


@pytest.mark.parametrize("axis", range(4))
def test_neighbours_are_unrelated(axis: int) -> None:
    """Consecutive draws, as pairs, fill the unit square evenly."""
    sample = draws(axis)
    pairs = np.histogram2d(sample[:-1:2], sample[1::2], 16, [[0, 1], [0, 1]])[0]
    assert stats.chisquare(pairs.ravel()).pvalue > CHANCE


@pytest.mark.parametrize("lag", [1, 2, 8])
def test_streams_seeds_and_lanes_are_uncorrelated(lag: int) -> None:
    bound = 4.5 / np.sqrt(NUM)
    base = draws(2)
    for other in (draws(2, seed=3 + lag), np.roll(base, lag), draws(3)):
        assert abs(np.corrcoef(base, other)[0, 1]) < bound
    exploring = np.array([uniform(3, STREAM_EXPLORATION, i, lag) for i in range(2000)])
    sampling = np.array([uniform(3, STREAM_SAMPLING, i, lag) for i in range(2000)])
    assert abs(np.corrcoef(exploring, sampling)[0, 1]) < 4.5 / np.sqrt(2000)


def test_depends_on_its_arguments_alone() -> None:
    assert uniform(5, 1, 7, 2) == uniform(5, 1, 7, 2)
    assert len({uniform(*arguments) for arguments in np.ndindex(3, 3, 3, 3)}) == 81


@kernel
def _copy(out, first, array, start, num):
    copy_entries(out, first, array, start, num)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("first", "start", "num"), [(0, 0, 24), (5, 7, 9), (23, 0, 1), (4, 4, 0)])
def test_entries_are_copied_and_no_others(dtype: type, first: int, start: int, num: int) -> None:
    """Counted through both arrays' rows, whatever their shapes."""
    out, array = np.full((4, 6), 99, dtype), np.arange(24, dtype=dtype).reshape(8, 3)
    _copy(out, first, array, start, num)
    expected = np.full(24, 99, dtype)
    expected[first : first + num] = np.arange(start, start + num)
    np.testing.assert_array_equal(out.ravel(), expected)


@pytest.mark.parametrize("array", [np.zeros(8, np.float64), np.zeros((8, 2), np.float32)[:, 0]])
def test_entries_of_another_kind_or_with_gaps_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TypingError):
        _copy(np.zeros(8, np.float32), 0, array, 0, 8)


def test_a_part_is_for_kernels_alone() -> None:
    @part
    def double(number):
        return 2 * number

    @kernel
    def quadruple(number):
        return double(double(number))

    for call in range(2):  # before it has been compiled for these types, and afterwards
        with pytest.raises(TypeError, match="double is a part of kernels, which only they can call"):
            double(3)
        assert quadruple(3) == 12, call


def test_a_callable_part_is_for_both() -> None:
    @callable_part
    def double(number):
        return 2 * number

    assert double(3) == 6
