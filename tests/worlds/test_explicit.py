"""The compiled step and reset of MDPs in arrays, against their probabilities."""

import numba
import numpy as np
import pytest
from scipy import stats

from qfleet.worlds.explicit import DeterministicParameters
from qfleet.worlds.mdp import MDP
from qfleet.worlds.world import World

CHANCE = 1e-5
"""Probability that a sound sampler fails one of these tests; the seeds are fixed, so it either does or not."""
NUM_DRAWS = 40_000


@numba.njit
def many_steps(step, parameters, state, action, randoms, states, rewards, ended):
    for i in range(randoms.size):
        states[i], rewards[i], ended[i] = step(parameters, state, action, randoms[i])


@numba.njit
def many_resets(reset, parameters, randoms, states):
    for i in range(randoms.size):
        states[i] = reset(parameters, randoms[i])


@numba.njit
def which_allowed(allowed, parameters, result):
    for state in range(result.shape[0]):
        for action in range(result.shape[1]):
            result[state, action] = allowed(parameters, state, action)


def steps(world: World, state: int, action: int, randoms: np.ndarray) -> tuple[np.ndarray, ...]:
    """(next states, rewards, terminated) of one pair, for each random number."""
    size = randoms.size
    out = np.empty(size, np.int64), np.empty(size), np.empty(size, np.bool_)
    many_steps(world.step, world.parameters, state, action, randoms, *out)
    return out


def resets(world: World, randoms: np.ndarray) -> np.ndarray:
    states = np.empty(randoms.size, np.int64)
    many_resets(world.reset, world.parameters, randoms, states)
    return states


def branching_mdp(num_outcomes: int, num_states: int = 14) -> tuple[MDP, np.ndarray, np.ndarray]:
    """Every pair has `num_outcomes` outcomes, in state 0 fewer; the last two states are terminal."""
    generator = np.random.default_rng(num_outcomes)
    transitions = np.zeros((num_states, 2, num_states))
    for state, action in np.ndindex(num_states, 2):
        size = max(1, num_outcomes - 1) if state == 0 else num_outcomes
        to = generator.choice(num_states, size, replace=False)
        transitions[state, action, to] = generator.dirichlet(np.full(size, 2.0))
    rewards = generator.normal(size=transitions.shape)
    ends = [num_states - 2, num_states - 1]
    return MDP.from_arrays(transitions, rewards, terminal=ends, start=0), transitions, rewards


@pytest.mark.parametrize("num_outcomes", [1, 3, 8, 13])
def test_steps_come_as_often_as_their_probabilities_say(num_outcomes: int):
    mdp, transitions, rewards = branching_mdp(num_outcomes)
    world, randoms = mdp.world(), np.random.default_rng(1).random(NUM_DRAWS)
    for state, action in ((0, 0), (0, 1), (5, 1), (11, 0)):
        states, gains, ended = steps(world, state, action, randoms)
        probabilities = transitions[state, action]
        possible = probabilities > 0
        counts = np.bincount(states, minlength=14)
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            expected = probabilities[possible] * NUM_DRAWS
            assert stats.chisquare(counts[possible], expected * (NUM_DRAWS / expected.sum())).pvalue > CHANCE
        np.testing.assert_array_equal(gains, rewards[state, action, states])
        np.testing.assert_array_equal(ended, states >= 12)


@pytest.mark.parametrize("num_outcomes", [2, 13])
def test_the_extremes_of_the_random_numbers_stay_among_the_possible(num_outcomes: int):
    mdp, transitions, _ = branching_mdp(num_outcomes)
    world = mdp.world()
    for state, action in np.ndindex(12, 2):
        states, _, _ = steps(world, state, action, np.array([0.0, np.nextafter(1.0, 0.0)]))
        possible = np.flatnonzero(transitions[state, action])
        np.testing.assert_array_equal(states, possible[[0, -1]])


def test_equal_random_numbers_make_equal_steps_in_every_form():
    transitions = np.zeros((4, 1, 4))
    transitions[:, 0, 1] = transitions[:, 0, 3] = 0.5
    few = MDP.from_arrays(transitions, np.ones((4, 1)), terminal=[3], start=0)
    # State 0 with many outcomes makes room for the same number too wasteful.
    wide = np.zeros((40, 1, 40))
    wide[:, 0, 1] = wide[:, 0, 3] = 0.5
    wide[0, 0] = 1 / 40
    many = MDP.from_arrays(wide, np.ones((40, 1)), terminal=[3], start=1)
    assert few.outcomes.branching == 2
    assert many.outcomes.branching == 0
    randoms = np.random.default_rng(3).random(1000)
    for one, other in zip(steps(few.world(), 2, 0, randoms), steps(many.world(), 2, 0, randoms), strict=True):
        np.testing.assert_array_equal(one, other)


def test_state_zero_can_be_terminal():
    mdp = MDP.from_arrays([[1, 0], [0, 1]], [[0.0, 0.0], [5.0, 0.0]], terminal=[0])
    assert isinstance(mdp.world().parameters, DeterministicParameters)
    world = mdp.world()
    states, rewards, ended = steps(world, 1, 0, np.array([0.3]))
    assert (states[0], rewards[0], ended[0]) == (0, 5.0, True)
    states, rewards, ended = steps(world, 1, 1, np.array([0.3]))
    assert (states[0], rewards[0], ended[0]) == (1, 0.0, False)


@pytest.mark.parametrize(
    ("start", "terminal"),
    [(None, None), (None, [0, 5]), (4, None), (np.array([0.1, 0, 0.2, 0.3, 0, 0.15, 0.25]), None)],
)
def test_episodes_begin_as_the_start_distribution_says(start, terminal):
    mdp = MDP.from_arrays(np.zeros((7, 1), int), np.zeros((7, 1)), start=start, terminal=terminal)
    states = resets(mdp.world(), np.random.default_rng(5).random(NUM_DRAWS))
    expected = mdp.start_distribution() * NUM_DRAWS
    counts = np.bincount(states, minlength=7)
    assert counts[expected == 0].sum() == 0
    if (expected > 0).sum() > 1:
        assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > CHANCE


def test_masks_reach_the_world():
    masks = np.random.default_rng(0).random((6, 3)) < 0.5
    masks[:, 1] = True
    mdp = MDP.from_arrays(np.zeros((6, 3), int), np.zeros((6, 3)), allowed=masks, terminal=[2], start=1)
    world, result = mdp.world(), np.empty((6, 3), np.bool_)
    which_allowed(world.allowed, world.parameters, result)
    masks[2] = True
    np.testing.assert_array_equal(result, masks)
    assert MDP.from_arrays(np.zeros((6, 3), int), np.zeros((6, 3))).world().allowed is None
