"""Every rule converges to its exact fixed point: the largest error that is left, world by world.

Bounds are about twice the largest error seen over many seeds; with the learning rate 1 / (1 + (1 - discount) (N - 1))
what is left is noise that falls with the square root of the steps, and little where nothing is random.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from qfleet.tabular.exact import Boltzmann, EpsilonGreedy, PolicyRule
from qfleet.tabular.program import Exploration, RateSchedule, Rule
from tests.tabular.learning import CONFIG, RULES, at_epsilon, exact_solution, learned, max_error
from tests.tabular.small_worlds import (
    CHAIN_DISCOUNT,
    CHAIN_HALF_GREEDY,
    CHAIN_OPTIMUM,
    CHAIN_UNIFORM,
    chain,
    cliff_walking,
    frozen_lake,
    garnet,
    taxi,
)

EPSILON = 0.3
ON_POLICY = ("sarsa", "expected-sarsa")
GARNETS = range(20)


def policy_of(rule: Rule, epsilon: float = EPSILON) -> PolicyRule:
    """Whose values a rule converges to."""
    return EpsilonGreedy(epsilon) if rule in ON_POLICY else "greedy"


@dataclass(frozen=True)
class Bounds:
    """Largest errors allowed; cliff_walking punishes with -100, and taxi with -10."""

    cliff_walking: float
    taxi: float
    cliff_steps: int = 10_000_000


BOUNDS: dict[Rule, Bounds] = {
    "q-learning": Bounds(1e-9, 1e-8),
    "double-q-learning": Bounds(0.6, 1e-4),
    "sarsa": Bounds(5.0, 0.9, cliff_steps=40_000_000),
    "expected-sarsa": Bounds(1e-5, 1e-3),
    "tree-backup": Bounds(1e-9, 1e-8),
    "watkins-q-lambda": Bounds(1e-9, 1e-8),
}


def test_the_values_of_the_chain_are_those_computed_by_hand():
    cases: list[tuple[PolicyRule, np.ndarray]] = [
        ("greedy", CHAIN_OPTIMUM),
        (EpsilonGreedy(0.5), CHAIN_HALF_GREEDY),
        ("uniform", CHAIN_UNIFORM),
    ]
    for policy, by_hand in cases:
        solution = exact_solution(chain(), CHAIN_DISCOUNT, policy)
        np.testing.assert_allclose(solution.values[:2], by_hand, rtol=0, atol=1e-12)
        assert solution.counted.tolist() == [[True, True], [True, True], [False, False]]
        assert solution.error(np.vstack([by_hand, [99, 99]]) + np.array([0, 0.25])) == pytest.approx(0.25)


@pytest.mark.parametrize("rule", RULES)
def test_on_the_chain(rule: Rule):
    config = replace(at_epsilon(0.5), discount=CHAIN_DISCOUNT)
    values = learned(chain(), rule, 1_000_000, config).table.values.mean(axis=0)
    by_hand = CHAIN_HALF_GREEDY if rule in ON_POLICY else CHAIN_OPTIMUM
    assert np.abs(values[:2] - by_hand).max() < 0.04


@pytest.mark.parametrize("rule", RULES)
def test_on_frozen_lake(rule: Rule):
    lake = frozen_lake()
    assert max_error(learned(lake, rule, 3_000_000), policy_of(rule), lake) < 0.035


@pytest.mark.parametrize("rule", RULES)
def test_on_cliff_walking(rule: Rule):
    cliff, bounds = cliff_walking(), BOUNDS[rule]
    learner = learned(cliff, rule, bounds.cliff_steps)
    assert max_error(learner, policy_of(rule), cliff) < bounds.cliff_walking


@pytest.mark.parametrize("rule", RULES)
def test_on_taxi(rule: Rule):
    world = taxi()
    assert max_error(learned(world, rule, 10_000_000), policy_of(rule), world) < BOUNDS[rule].taxi


@pytest.mark.parametrize("rule", RULES)
def test_on_twenty_garnets(rule: Rule):
    errors = [
        max_error(learned(garnet(seed), rule, 1_000_000, seed=seed), policy_of(rule), garnet(seed))
        for seed in GARNETS
    ]
    assert max(errors) < 0.1
    assert min(errors) > 0  # they are random


def test_where_nothing_is_random_a_learning_rate_of_one_is_exact():
    config = replace(CONFIG, learning_rate_schedule="constant")
    for world in (cliff_walking(), taxi()):
        assert max_error(learned(world, "q-learning", 10_000_000, config), "greedy", world) < 1e-9


@pytest.mark.parametrize(
    ("rule", "exploration", "schedule"),
    [
        ("sarsa", "boltzmann", "rescaled-linear"),
        ("expected-sarsa", "uniform", "visits"),
        pytest.param("expected-sarsa", "boltzmann", "rescaled-linear", marks=pytest.mark.soak),
        pytest.param("sarsa", "uniform", "visits", marks=pytest.mark.soak),
    ],
)
def test_other_explorations_have_fixed_points_of_their_own(
    rule: Rule, exploration: Exploration, schedule: RateSchedule
):
    config = replace(CONFIG, exploration=exploration, learning_rate_schedule=schedule)
    policy: PolicyRule = "uniform"
    if exploration == "boltzmann":
        config, policy = replace(config, temperature=2.0), Boltzmann(2.0)
    if schedule == "visits":
        config = replace(config, learning_rate_exponent=0.75)
    worlds = [frozen_lake(), *(garnet(seed) for seed in range(5))]
    errors = [max_error(learned(world, rule, 3_000_000, config), policy, world) for world in worlds]
    assert max(errors) < 0.1
    optimum = [exact_solution(world, 0.9, "greedy").values for world in worlds]
    own = [exact_solution(world, 0.9, policy) for world in worlds]
    apart = [solution.error(values) for solution, values in zip(own, optimum, strict=True)]
    assert min(apart) > 3 * max(errors)  # so that nobody mistakes one for the other


def test_the_hand_computed_chain_under_uniform_exploration():
    config = replace(
        CONFIG,
        discount=CHAIN_DISCOUNT,
        exploration="uniform",
        learning_rate_schedule="visits",
        learning_rate_exponent=0.75,
    )
    values = learned(chain(), "expected-sarsa", 1_000_000, config).table.values[0]
    assert np.abs(values[:2] - CHAIN_UNIFORM).max() < 0.04
