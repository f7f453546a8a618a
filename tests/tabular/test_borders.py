"""Across borders between workers: the fixed points stay what they are."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qfleet.backends.threads import ThreadFleet
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.cut import Cut
from qfleet.tabular.exact import EpsilonGreedy
from qfleet.tabular.learner import Task
from qfleet.tabular.program import Rule
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.worlds.mdp import MDP
from tests.tabular.learning import AT_BORDERS, CONFIG, RULES, exact_solution
from tests.tabular.small_worlds import garnet, in_one_form

CASES = [pytest.param(rule, marks=[] if rule in AT_BORDERS else [pytest.mark.soak]) for rule in RULES]


def values_across(
    mdp: MDP, rule: Rule, config: TabularConfig, bounds: tuple[int, ...], steps: int
) -> NDArray:
    """(num_states, num_actions) learned by workers that own blocks of states."""
    task = Task(mdp.world(), rule, config, seed=0, total_steps=steps, num_workers=len(bounds) - 1)
    fleet = ThreadFleet()
    settings = PartitionedConfig(sync_every_steps=1000, balance="none")
    team = Partitioned(fleet, task, Cut(bounds, np.empty(0, np.int32)), settings)
    try:
        team.advance(steps)
        return team.values().mean(axis=0)
    finally:
        team.close()
        fleet.close()


def short_episodes() -> MDP:
    """Of one step, from state 0 to 1, or from 2 to itself for 1; state 1 is worth nothing, state 2 much."""
    moves, rewards = np.array([[1, 1], [1, 1], [2, 2]]), np.zeros((3, 2))
    rewards[2] = 1.0
    mdp = MDP.from_arrays(moves, rewards, start=np.array([0.5, 0.0, 0.5]), max_episode_steps=1)
    return in_one_form(mdp)


@pytest.mark.parametrize("rule", CASES)
def test_a_step_that_is_truncated_at_the_border_bootstraps_with_where_it_led(rule: Rule):
    """Not with where the next episode begins, though the walker goes there and not across the border."""
    mdp = short_episodes()
    for bounds in ((0, 1, 3), (0, 2, 3)):
        values = values_across(mdp, rule, replace(CONFIG, walkers=4), bounds, 50_000)
        np.testing.assert_array_equal(values[0], 0.0)


@pytest.mark.parametrize("rule", CASES)
def test_three_workers_find_the_fixed_point_of_short_episodes(rule: Rule):
    mdp = replace(garnet(11, num_states=9), max_episode_steps=3)
    values = values_across(mdp, rule, replace(CONFIG, walkers=100), (0, 3, 5, 9), 400_000)
    policy = EpsilonGreedy(0.3) if "sarsa" in rule else "greedy"
    assert exact_solution(mdp, 0.9, policy).error(values) < 0.15
