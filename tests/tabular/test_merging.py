"""Merges: what each keeps of the workers' errors, to the last digits (theory: Woo et al. 2023)."""

from dataclasses import replace

import numpy as np
import pytest

from qfleet.tabular.learner import Task
from qfleet.tabular.merging import bounds_of, merge_by_visits, merge_deltas, merge_equal
from tests.tabular.learning import CONFIG
from tests.tabular.small_worlds import bandit


def log_weights(visits: np.ndarray, learning_rate: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(visits == 0, 0.0, -visits * np.log1p(-learning_rate))


def test_equal_leaves_the_arithmetic_mean_of_errors_and_visits_the_harmonic_one():
    random = np.random.default_rng(0)
    for workers in (1, 2, 3, 8):
        visits = random.integers(0, 60, (workers, 50))
        error, target = random.normal(size=50), random.normal(size=50)
        kept = 0.9**visits
        values = list(target + error * kept)
        arithmetic = target + error * kept.mean(axis=0)
        harmonic = target + error * workers / (1 / kept).sum(axis=0)
        np.testing.assert_allclose(merge_equal(values), arithmetic, rtol=0, atol=1e-14)
        merged = merge_by_visits(values, list(log_weights(visits, 0.1)))
        np.testing.assert_allclose(merged, harmonic, rtol=0, atol=1e-13)
        assert (np.abs(merged - target) <= np.abs(arithmetic - target) + 1e-13).all()


@pytest.mark.parametrize("workers", [2, 5])
def test_where_one_alone_visits_often_visits_keeps_no_error_and_equal_keeps_all_but_its_share(workers: int):
    values = [np.array([1.0]) for _ in range(workers)]  # the target is 0, the old error 1
    values[1] = np.array([0.9**400])
    weights = [np.zeros(1) for _ in range(workers)]
    weights[1] = log_weights(np.array([400]), 0.1)
    assert merge_equal(values)[0] == pytest.approx(1 - 1 / workers, abs=1e-15)
    assert 0 < merge_by_visits(values, weights)[0] < 1e-17


def test_weights_far_beyond_what_a_float_holds():
    visits = np.array([[100_000, 100_000, 7000], [99_999, 0, 0]])
    with np.errstate(over="ignore"):
        assert np.isinf(np.float64(0.9) ** -100_000)
    merged = merge_by_visits([np.full(3, 1.0), np.full(3, 2.0)], list(log_weights(visits, 0.1)))
    assert merged[0] == pytest.approx((1 + 0.9 * 2) / 1.9, abs=1e-11)
    assert merged[1:].tolist() == [1.0, 1.0]


def test_a_learning_rate_of_one_counts_visitors_equally_and_nobody_else():
    weights = log_weights(np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]]), 1.0)
    values = [np.array([2.0, 5.0, 3.0]), np.array([4.0, 7.0, 6.0]), np.array([99.0, 9.0, 9.0])]
    assert merge_by_visits(values, list(weights)).tolist() == [3.0, 7.0, 6.0]


def test_nobody_visited_or_all_alike_is_the_mean():
    values = list(np.random.default_rng(1).normal(size=(4, 20)))
    for weight in (0.0, 12.5):
        merged = merge_by_visits(values, [np.full(20, weight)] * 4)
        np.testing.assert_allclose(merged, merge_equal(values), rtol=0, atol=1e-15)


def test_deltas_add_what_everybody_changed():
    base = np.array([1.0, 2.0, 3.0])
    values = [base + np.array([1, 0, 0]), base + np.array([2, -1, 0]), base]
    assert merge_deltas(base, values).tolist() == [4.0, 1.0, 3.0]
    assert base.tolist() == [1.0, 2.0, 3.0]


def test_sums_add_in_the_order_of_the_ranks():
    values = [np.array([number]) for number in (1e16, 1.0, -1e16)]
    assert merge_equal(values)[0] == 0.0
    assert merge_equal([values[0], values[2], values[1]])[0] == 1 / 3
    assert merge_deltas(np.zeros(1), values)[0] == 0.0
    assert merge_by_visits(values, [np.zeros(1)] * 3)[0] == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merges_keep_the_type_and_leave_their_arguments_alone(dtype: type):
    values = [np.array([1, 2], dtype), np.array([3, 5], dtype)]
    for merged in (
        merge_equal(values),
        merge_by_visits(values, [np.zeros(2), np.zeros(2)]),
        merge_deltas(np.zeros(2, dtype), values),
    ):
        assert merged.dtype == dtype
    assert [value.tolist() for value in values] == [[1, 2], [3, 5]]


def test_the_kernel_adds_up_the_logarithm_of_what_is_left_of_the_old_value():
    config = replace(CONFIG, learning_rate=0.7, initial_value=5.0, discount=0.0, walkers=1)
    task = Task(bandit(np.zeros(3)).world(), "q-learning", config, seed=0, total_steps=1)
    table = task.make_table(np.full(task.shape, 5.0), weighted=True)
    learner = task.make_learner(0, table, weighted=True)
    learner.start()
    learner.advance(60)
    assert table.visits.sum() == 60
    np.testing.assert_allclose(np.log(5.0 / table.values), table.log_weights, rtol=1e-13)


def test_pieces_cover_everything_and_differ_by_one():
    for length, parts in ((10, 3), (3, 5), (0, 2), (12, 4)):
        bounds = bounds_of(length, parts)
        sizes = np.diff(bounds)
        assert (bounds[0], bounds[-1], len(sizes)) == (0, length, parts)
        assert sizes.max() - sizes.min() <= 1
