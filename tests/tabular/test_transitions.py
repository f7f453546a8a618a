"""Walkers that only act, and minibatches of what they made, against the same arithmetic in Python."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qfleet import MDP
from qfleet.sources import as_world
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import TableLearner, Task
from qfleet.tabular.transitions import Transitions, learn_minibatches
from qfleet.worlds.gymnasium_tables import mdp_of_gymnasium

LAKE = mdp_of_gymnasium("FrozenLake-v1", {})


def begun(**config: Any) -> TableLearner:
    chosen = {"exploration": "uniform", "learning_rate": 0.3, "discount": 0.9, "walkers": 5} | config
    task = Task(
        replace(as_world(LAKE), max_episode_steps=20), "q-learning", TabularConfig(**chosen), 7, 10_000
    )
    learner = task.make_learner(0, task.make_table(np.random.default_rng(1).normal(size=task.shape)))
    learner.begin()
    learner.admit()
    return learner


def test_transitions_are_the_worlds_and_follow_on_one_another() -> None:
    learner = begun()
    values, (made, block) = learner.table.values.copy(), learner.act(4000)
    np.testing.assert_array_equal(learner.table.values, values)  # nothing was learned
    assert made.steps == 4000 and made.episodes > 100
    assert made.returns == block.reward.sum()  # 1 at the goal, where episodes end
    ended = 0
    for walker in range(5):
        own = block.of(np.arange(walker, 4000, 5))
        follows = own.next_state[:-1] == own.state[1:]
        assert follows[~own.terminated[:-1] & (own.state[1:] != 0)].all()
        assert (own.state[1:][own.terminated[:-1]] == 0).all()
        ended += int(own.terminated.sum())
    assert 0 < made.episodes - ended < made.episodes // 2  # the others were truncated after 20 steps
    assert made.episode_steps <= 20 * made.episodes
    moves = np.abs(block.next_state - block.state)
    assert np.isin(moves, [0, 1, 4]).all() and len(set(block.action.tolist())) == 4
    assert set(block.next_state[block.terminated].tolist()) <= {5, 7, 11, 12, 15}


def test_how_acting_is_cut_into_calls_changes_nothing() -> None:
    one, other = begun(exploration="epsilon-greedy"), begun(exploration="epsilon-greedy")
    whole = one.act(1000)[1]
    parts = [other.act(steps)[1] for steps in (1, 0, 499, 500)]
    for name, array in whole._asdict().items():
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), array)


@pytest.mark.parametrize(("every", "rate"), [(1, 1.0), (3, 1.0), (2, 0.25), (100, 1.0)])
def test_minibatches_against_the_same_in_python(every: int, rate: float) -> None:
    learner = begun()
    _, block = learner.act(600)
    drawn = block.of(np.random.default_rng(2).integers(600, size=80))
    table, target = learner.table.values[0].copy(), np.random.default_rng(3).normal(size=(16, 4))
    given, wanted_sum = target[None].copy(), 0.0
    for i in range(80):
        state, action, reward, after, terminated = (array[i] for array in drawn)
        goal = reward + (0.0 if terminated else 0.9 * target[after].max())
        wanted_sum += abs(goal - table[state, action])
        table[state, action] += 0.3 * (goal - table[state, action])
        if (i + 1) % 8 == 0 and (5 + (i + 1) // 8) % every == 0:
            target = table.copy() if rate == 1 else target + rate * (table - target)
    found = learn_minibatches(learner.program, learner.work(), given, drawn, 8, every, rate, 5)
    np.testing.assert_allclose(learner.table.values[0], table, atol=1e-14)
    np.testing.assert_allclose(given[0], target, atol=1e-14)
    assert found == pytest.approx(wanted_sum)


def test_masked_actions_are_not_bootstrapped_from() -> None:
    """Both states have one action of two; the other's value is far too good."""
    allowed = np.array([[True, False], [True, False]])
    mdp = MDP.from_arrays(
        np.array([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]),
        np.ones((2, 2)),
        allowed=allowed,
        name="Masked",
    )
    config = TabularConfig(learning_rate=1.0, discount=0.5, exploration="uniform", walkers=1)
    task = Task(as_world(mdp), "q-learning", config, 0, 100)
    learner = task.make_learner(0, task.make_table(np.array([[[0.0, 1e9], [0.0, 1e9]]])))
    learner.begin()
    learner.admit()
    _, block = learner.act(64)
    target = learner.table.values.copy()
    learn_minibatches(learner.program, learner.work(), target, block, 1, 1, 1.0, 0)
    assert (block.action == 0).all()
    np.testing.assert_allclose(learner.table.values[0, :, 0], 2.0)
    assert isinstance(block, Transitions)
