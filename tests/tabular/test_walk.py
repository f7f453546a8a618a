"""The kernel against the same walk in plain Python: every rule, exploration and schedule, number by number."""

from dataclasses import replace

import numpy as np
import pytest

from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import TableLearner
from qfleet.tabular.program import Exploration, RateSchedule, Rule
from qfleet.worlds.mdp import MDP
from tests.tabular.learning import CONFIG, RULES, make_learner
from tests.tabular.reference import ReferenceWalk
from tests.tabular.small_worlds import chain, garnet, masked_garnet

SCHEDULED = replace(CONFIG, exploration_initial=1.0, exploration_final=0.1, exploration_steps=2000, walkers=1)
"""With an exploration that falls while the reference is watched."""


def side_by_side(
    mdp: MDP, rule: Rule, config: TabularConfig, steps: int, prefetched: bool = False
) -> tuple[TableLearner, ReferenceWalk]:
    """The kernel and the reference after the same steps from the same random values."""
    num_tables = 2 if rule == "double-q-learning" else 1
    shape = (num_tables, mdp.num_states, mdp.num_actions)
    initial = np.random.default_rng(7).normal(size=shape).astype(config.dtype)
    learner = make_learner(
        mdp, rule, config, seed=3, total_steps=steps, initial=initial, prefetched=prefetched
    )
    reference = ReferenceWalk(mdp, learner.task, initial.copy())
    reference.advance(steps)
    assert learner.advance(steps).steps == steps
    return learner, reference


def check_walkers(learner: TableLearner, reference: ReferenceWalk) -> None:
    """Where they are, what they are about to do, and their random state."""
    for name in ("state", "action", "age", "born", "random"):
        expected = [getattr(walker, name) for walker in reference.walkers]
        assert getattr(learner.walkers, name).tolist() == expected, name


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_that_of_the_books(rule: Rule):
    trace = {"trace_decay": 0.5} if rule == "watkins-q-lambda" else {}
    steps = {"n_step": 3} if rule == "tree-backup" else {}
    config = replace(SCHEDULED, **trace, **steps)
    for mdp in (masked_garnet(1), chain()):
        learner, reference = side_by_side(mdp, rule, config, 6000)
        check_walkers(learner, reference)
        # The kernel's traces end where they have decayed to a millionth, and add up in another order.
        tolerance = 1e-5 if rule == "watkins-q-lambda" else 0.0
        np.testing.assert_allclose(learner.table.values, reference.values, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(learner.table.visits, reference.visits)


@pytest.mark.parametrize(
    ("rule", "exploration", "schedule"),
    [
        ("q-learning", "epsilon-greedy", "constant"),
        ("expected-sarsa", "uniform", "visits"),
        ("sarsa", "boltzmann", "rescaled-linear"),
        pytest.param("expected-sarsa", "boltzmann", "rescaled-linear", marks=pytest.mark.soak),
        pytest.param("double-q-learning", "boltzmann", "visits", marks=pytest.mark.soak),
        pytest.param("q-learning", "uniform", "constant", marks=pytest.mark.soak),
    ],
)
def test_explorations_and_schedules_are_those_of_the_books(
    rule: Rule, exploration: Exploration, schedule: RateSchedule
):
    omega = {"learning_rate_exponent": 0.7} if schedule == "visits" else {}
    temperature = {"temperature": 0.3} if exploration == "boltzmann" else {}
    config = replace(
        SCHEDULED,
        learning_rate=0.4,
        exploration=exploration,
        learning_rate_schedule=schedule,
        **omega,
        **temperature,
    )
    learner, reference = side_by_side(masked_garnet(2), rule, config, 6000)
    check_walkers(learner, reference)
    # Powers and exponentials may differ in their last bit.
    tolerance = 0.0 if schedule == "constant" else 1e-12
    np.testing.assert_allclose(learner.table.values, reference.values, rtol=tolerance, atol=tolerance)


def test_ten_thousand_steps_of_many_walkers_are_the_reference_bit_for_bit():
    config = replace(SCHEDULED, learning_rate=0.3, learning_rate_schedule="constant", walkers=35)
    learner, reference = side_by_side(garnet(4), "q-learning", config, 10_000)
    check_walkers(learner, reference)
    np.testing.assert_array_equal(learner.table.values, reference.values)


@pytest.mark.parametrize("walkers", [1, 16, 35])
def test_float32_tables_round_once_an_update_and_asking_for_memory_ahead_changes_no_bit(walkers: int):
    config = replace(SCHEDULED, learning_rate=0.3, learning_rate_schedule="constant", walkers=walkers)
    config = replace(config, table_type="float32")
    learner, reference = side_by_side(garnet(5), "q-learning", config, 5000, prefetched=True)
    assert learner.table.values.dtype == np.float32
    check_walkers(learner, reference)
    np.testing.assert_array_equal(learner.table.values, reference.values)


@pytest.mark.parametrize("walkers", [1, 16, 35])
def test_how_the_work_is_cut_into_calls_does_not_matter(walkers: int):
    config = replace(CONFIG, walkers=walkers)
    at_once = make_learner(garnet(6), "tree-backup", config)
    in_pieces = make_learner(garnet(6), "tree-backup", config)
    at_once.advance(5000)
    for steps in np.random.default_rng(0).multinomial(5000, np.full(60, 1 / 60)):
        in_pieces.advance(int(steps))
    np.testing.assert_array_equal(at_once.table.values, in_pieces.table.values)
    np.testing.assert_array_equal(at_once.walkers.random, in_pieces.walkers.random)
