"""Learning rates, and how often which action is chosen."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from qfleet.tabular.config import TabularConfig
from qfleet.tabular.program import Rule
from qfleet.worlds.mdp import MDP
from tests.tabular.learning import CONFIG, at_epsilon, make_learner
from tests.tabular.small_worlds import bandit, chain, in_one_form

DRAWS = 200_000
BY_CHANCE = 1e-4
"""How often a right generator would fail; seeds are fixed."""


def after_updates(rule: Rule, config: TabularConfig, updates: int) -> float:
    """What is left of the value 1 of the only pair, which ends the episode for nothing."""
    end = in_one_form(MDP.from_arrays(np.array([[1], [1]]), np.zeros((2, 1)), terminal=[1]))
    learner = make_learner(end, rule, replace(config, initial_value=1.0))
    learner.advance(updates)
    return float(learner.table.values[0, 0, 0])


@pytest.mark.parametrize("updates", [1, 2, 10, 1000])
def test_rates(updates: int):
    numbers = np.arange(1, updates + 1)
    rescaled = replace(CONFIG, learning_rate=0.6, discount=0.75)
    left = np.prod(1 - 0.6 / (1 + 0.25 * (numbers - 1)))
    assert after_updates("q-learning", rescaled, updates) == pytest.approx(left, rel=1e-12)
    visits = replace(rescaled, learning_rate_schedule="visits", learning_rate_exponent=0.7)
    visits = replace(visits, exploration="uniform")
    left = np.prod(1 - 0.6 * numbers**-0.7)
    assert after_updates("expected-sarsa", visits, updates) == pytest.approx(left, rel=1e-12)
    constant = replace(rescaled, learning_rate_schedule="constant")
    assert after_updates("q-learning", constant, updates) == pytest.approx(
        0.4**updates, rel=1e-11, abs=1e-300
    )


def frequencies(rule: Rule, config: TabularConfig, rewards: list[float], allowed: list[bool]) -> np.ndarray:
    """How often each action was chosen whose values are what they pay: nothing is left to learn."""
    values = np.array(rewards, np.float64)
    tables = 2 if rule == "double-q-learning" else 1
    initial = np.repeat(values[None, None], tables, axis=0)
    mdp = bandit(values, np.array(allowed))
    learner = make_learner(mdp, rule, replace(config, discount=0.0), seed=8, initial=initial)
    learner.advance(DRAWS)
    np.testing.assert_array_equal(learner.table.values, initial)
    return learner.table.visits.sum(axis=(0, 1))


def check(counts: np.ndarray, shares: list[float]) -> None:
    """By Pearson's chi-square test; actions of no share are never chosen."""
    expected = np.array(shares) * DRAWS
    assert counts.sum() == DRAWS
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], expected[possible]).pvalue > BY_CHANCE


ALL = [True] * 4
SOME = [True, False, True, True]


@pytest.mark.parametrize("rule", ["q-learning", "double-q-learning"])
def test_epsilon_greedy(rule: Rule):
    check(frequencies(rule, at_epsilon(0.2), [0, 1, 3, 2], ALL), [0.05, 0.05, 0.85, 0.05])
    check(frequencies(rule, at_epsilon(0.3), [0, 9, 3, 2], SOME), [0.1, 0, 0.8, 0.1])
    check(frequencies(rule, at_epsilon(1.0), [0, 1, 3, 2], ALL), [0.25] * 4)
    check(frequencies(rule, at_epsilon(0.0), [0, 1, 3, 2], ALL), [0, 0, 1, 0])


def test_among_the_best_all_are_taken():
    """What was drawn if it is among the best, else the first of them."""
    check(frequencies("q-learning", at_epsilon(0.0), [1, 1, 0, 1], ALL), [0.5, 0.25, 0, 0.25])
    check(frequencies("q-learning", at_epsilon(0.0), [2, 2, 2, 2], ALL), [0.25] * 4)
    check(frequencies("q-learning", at_epsilon(0.0), [2, 2, 2, 2], SOME), [1 / 3, 0, 1 / 3, 1 / 3])


def softmax(rewards: list[float], temperature: float, allowed: list[bool]) -> list[float]:
    weights = np.exp(np.array(rewards) / temperature) * allowed
    return (weights / weights.sum()).tolist()


@pytest.mark.parametrize("rule", ["sarsa", pytest.param("double-q-learning", marks=pytest.mark.soak)])
def test_boltzmann(rule: Rule):
    rewards = [0.0, 1.0, 0.5, -1.0]
    for temperature, allowed in ((0.5, ALL), (2.0, ALL), (1.0, SOME)):
        config = replace(CONFIG, exploration="boltzmann", temperature=temperature)
        check(frequencies(rule, config, rewards, allowed), softmax(rewards, temperature, allowed))


def test_boltzmann_does_not_overflow():
    config = replace(CONFIG, exploration="boltzmann", temperature=1e-3)
    check(frequencies("sarsa", config, [1e6, 0, -1e6, 5], ALL), [1, 0, 0, 0])


def test_uniform():
    config = replace(CONFIG, exploration="uniform", learning_rate_schedule="visits")
    check(frequencies("expected-sarsa", config, [0, 1, 3, 2], ALL), [0.25] * 4)
    check(frequencies("expected-sarsa", config, [0, 1, 3, 2], SOME), [1 / 3, 0, 1 / 3, 1 / 3])


def test_two_tables_are_updated_alike():
    config = replace(at_epsilon(1.0), discount=0.0)
    learner = make_learner(bandit(np.zeros(2)), "double-q-learning", config)
    learner.advance(DRAWS)
    counts = learner.table.visits.ravel()
    assert stats.chisquare(counts).pvalue > BY_CHANCE  # independent of the action, too


def test_optimistic_values_make_even_the_greedy_try_everything():
    greedy = replace(at_epsilon(0.0), walkers=1)
    optimistic = make_learner(chain(), "q-learning", replace(greedy, initial_value=20.0))  # twice the best
    optimistic.advance(20_000)
    assert (optimistic.table.visits[0, :2] > 0).all()
    modest = make_learner(chain(), "q-learning", replace(greedy, initial_value=-1e6))
    modest.advance(20_000)
    assert (modest.table.visits[0, :2] == 0).any()
