"""Targets, losses and exploration by hand-computed tables."""

import numpy as np
import pytest
from scipy import stats

from qfleet.deep.exploration import epsilon_greedy
from qfleet.deep.losses import td_loss
from qfleet.deep.targets import best_action, bootstrapped_targets

NEXT_VALUES = np.array([[1.0, 5.0, 3.0], [2.0, 0.0, -1.0], [-3.0, -2.0, -4.0]], np.float32)
SELECTING = np.array([[9.0, 0.0, 1.0], [0.0, 0.0, 7.0], [0.0, -1.0, 4.0]], np.float32)
REWARDS = np.array([1.0, -1.0, 0.5], np.float32)
DISCOUNTS = np.array([0.5, 0.9, 0.0], np.float32)
NO_MASKS = np.ones((3, 0), np.bool_)
MASKS = np.array([[True, False, True], [False, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("selecting", "masks", "expected"),
    [
        (NEXT_VALUES, NO_MASKS, [1 + 0.5 * 5, -1 + 0.9 * 2, 0.5]),
        (SELECTING, NO_MASKS, [1 + 0.5 * 1, -1 + 0.9 * -1, 0.5]),
        (NEXT_VALUES, MASKS, [1 + 0.5 * 3, -1 + 0.9 * 0, 0.5]),
        (SELECTING, MASKS, [1 + 0.5 * 1, -1 + 0.9 * 0, 0.5]),
    ],
    ids=["dqn", "double", "dqn-masked", "double-masked"],
)
def test_targets(selecting, masks, expected) -> None:
    targets = np.full(3, np.nan, np.float32)
    bootstrapped_targets(REWARDS, DISCOUNTS, selecting, NEXT_VALUES, masks, targets)
    np.testing.assert_allclose(targets, expected, rtol=1e-6)


def test_a_terminal_transition_ignores_whatever_follows() -> None:
    targets = np.zeros(3, np.float32)
    wild = np.full((3, 3), np.nan, np.float32)
    bootstrapped_targets(REWARDS, np.zeros(3, np.float32), wild, wild, NO_MASKS, targets)
    np.testing.assert_array_equal(targets, REWARDS)


def test_best_action_is_the_first_of_equals_and_never_masked() -> None:
    values, nothing = np.array([2.0, 7.0, 7.0], np.float32), np.ones(0, np.bool_)
    assert best_action(values, nothing) == 1
    assert best_action(values, np.array([True, False, True])) == 2
    assert best_action(values, np.array([True, False, False])) == 0
    assert best_action(-values, nothing) == 0


@pytest.mark.parametrize(
    ("limit", "losses", "slopes"),
    [
        (1.0, [0.5 * 0.5**2, 3 - 0.5, 0.0], [-0.5, 1.0, 0.0]),
        (np.inf, [0.5 * 0.5**2, 0.5 * 3**2, 0.0], [-0.5, 3.0, 0.0]),
        (2.0, [0.5 * 0.5**2, 2 * 3 - 2, 0.0], [-0.5, 2.0, 0.0]),
    ],
)
def test_losses_and_their_slopes(limit: float, losses, slopes) -> None:
    values = np.array([[1.0, 9.0], [9.0, 4.0], [2.0, 9.0]], np.float32)
    actions, targets = np.array([0, 1, 0], np.int32), np.array([1.5, 1.0, 2.0], np.float32)
    weights = np.array([1.0, 0.5, 0.25], np.float32)
    errors, deltas = np.zeros(3, np.float32), np.full((3, 2), np.nan, np.float32)
    loss = td_loss(values, actions, targets, weights, limit, errors, deltas)
    assert loss == pytest.approx(np.mean(weights * losses))
    np.testing.assert_allclose(errors, [0.5, -3.0, 0.0])
    expected = np.zeros((3, 2))
    expected[np.arange(3), actions] = weights * slopes / 3
    np.testing.assert_allclose(deltas, expected)


def act(epsilon: float, masks: np.ndarray, num: int = 30_000) -> np.ndarray:
    """(num, 2): actions of two environments whose best are 2 and 0."""
    values = np.array([[1.0, 2.0, 3.0, 0.0], [4.0, 2.0, 3.0, 0.0]], np.float32)
    actions = np.empty((num, 2), np.int64)
    for counter in range(num):
        epsilon_greedy(values, masks, epsilon, 11, counter, actions[counter])
    return actions


def test_epsilon_greedy_without_masks() -> None:
    nothing = np.ones((2, 0), np.bool_)
    assert (act(0.0, nothing, 50) == [2, 0]).all()
    actions = act(0.4, nothing)
    for column, best in ((0, 2), (1, 0)):
        expected = np.full(4, 0.1)
        expected[best] += 0.6
        counts = np.bincount(actions[:, column], minlength=4)
        assert stats.chisquare(counts, expected * len(actions)).pvalue > 1e-5
    both = np.corrcoef(actions[:, 0] == 2, actions[:, 1] == 0)[0, 1]
    assert abs(both) < 4.5 / np.sqrt(len(actions))


def test_epsilon_greedy_never_takes_a_masked_action() -> None:
    masks = np.array([[True, True, False, True], [False, True, False, False]])
    assert (act(0.0, masks, 50) == [1, 1]).all()
    actions = act(1.0, masks)
    counts = np.bincount(actions[:, 0], minlength=4)
    assert counts[2] == 0 and stats.chisquare(counts[[0, 1, 3]]).pvalue > 1e-5
    assert (actions[:, 1] == 1).all()
