"""One step of every rule, computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from qfleet.tabular.learner import TableLearner
from qfleet.tabular.program import Rule
from qfleet.worlds.mdp import MDP
from tests.tabular.learning import CONFIG, RULES, make_learner
from tests.tabular.small_worlds import in_one_form

ONE = replace(CONFIG, discount=0.5, learning_rate=0.5, walkers=1)
"""The first update of a pair has the rate 1/2."""

FIRST = np.array([[1.0, 1.0], [4.0, 2.0]])
SECOND = np.array([[1.0, 1.0], [0.0, 3.0]])


def there_and_back(terminal: list[int] | None = None, max_episode_steps: int | None = None) -> MDP:
    """Two states; either action leads from one to the other, for 1 from state 0 and for nothing back."""
    mdp = MDP.from_arrays(
        np.array([[1, 1], [0, 0]]),
        np.array([[1.0, 1.0], [0.0, 0.0]]),
        terminal=terminal,
        start=0,
        max_episode_steps=max_episode_steps,
    )
    return in_one_form(mdp)


def tables(rule: Rule) -> np.ndarray:
    return np.stack([FIRST, SECOND] if rule == "double-q-learning" else [FIRST])


def after_one_step(rule: Rule, mdp: MDP, seed: int) -> tuple[TableLearner, float, int]:
    """The learner, the one value that was updated, and the table it is in."""
    config = replace(ONE, n_step=1) if rule == "tree-backup" else ONE
    learner = make_learner(mdp, rule, config, seed, initial=tables(rule))
    assert learner.walkers.state.tolist() == [0]
    action = int(learner.walkers.action[0])
    learner.advance(1)
    updated = np.argwhere(learner.table.visits)
    assert updated[:, 1:].tolist() == [[0, action]]
    others = learner.table.visits == 0
    np.testing.assert_array_equal(learner.table.values[others], tables(rule)[others])
    return learner, float(learner.table.values[tuple(updated[0])]), int(updated[0, 0])


def expected_value(rule: Rule, next_action: int, table: int) -> float:
    """1/2 old + 1/2 (1 + 1/2 bootstrap), old = 1."""
    bootstrap = {
        "sarsa": FIRST[1, next_action],
        "expected-sarsa": 0.7 * 4 + 0.3 * 3,
        # The table that is updated says which action, the other one what it is worth.
        "double-q-learning": [SECOND[1, 0], FIRST[1, 1]][table],
    }.get(rule, 4.0)
    return 0.5 + 0.5 * (1 + 0.5 * bootstrap)


@pytest.mark.parametrize("rule", RULES)
def test_one_step(rule: Rule):
    seen = set()
    for seed in range(40):
        learner, value, table = after_one_step(rule, there_and_back(), seed)
        next_action = int(learner.walkers.action[0])
        assert learner.walkers.state.tolist() == [1]
        assert value == pytest.approx(expected_value(rule, next_action, table), abs=1e-15)
        seen.add((next_action, table))
    assert len(seen) == (4 if rule == "double-q-learning" else 2)


@pytest.mark.parametrize("rule", RULES)
def test_a_terminated_episode_bootstraps_nothing(rule: Rule):
    learner, value, _ = after_one_step(rule, there_and_back(terminal=[1]), seed=0)
    assert value == 1.0
    assert (learner.walkers.state[0], learner.walkers.born[0]) == (0, 1)


@pytest.mark.parametrize("rule", RULES)
def test_a_truncated_episode_bootstraps(rule: Rule):
    learner, value, table = after_one_step(rule, there_and_back(max_episode_steps=1), seed=0)
    possible = {expected_value(rule, action, table) for action in (0, 1)}
    assert min(abs(value - one) for one in possible) < 1e-15
    assert (learner.walkers.state[0], learner.walkers.born[0]) == (0, 1)


def after_two_greedy_steps(rule: Rule, **settings: float) -> TableLearner:
    """Of a walker that explores nothing, so that it takes action 0 in state 1 (4 > 2)."""
    config = replace(ONE, exploration_initial=0.0, exploration_final=0.0, **settings)
    learner = make_learner(there_and_back(), rule, config, initial=tables(rule))
    learner.advance(2)
    return learner


def test_a_return_of_two_steps():
    """G = 1 + 1/2 (0 + 1/2 max(1, 1)) = 5/4, so that Q(0, a) = 1/2 + 5/8; state 1 waits for its second step."""
    learner = after_two_greedy_steps("tree-backup", n_step=2)
    assert sorted(learner.table.values[0, 0].tolist()) == [1.0, 1.125]
    assert learner.table.values[0, 1].tolist() == [4.0, 2.0]
    assert learner.history.length.tolist() == [1]


def test_a_trace_of_two_steps():
    """Errors 1 + 4/2 - 1 = 2 and 2/2 - 4 = -3, the second also to state 0 with trace 1/2 * 0.8."""
    learner = after_two_greedy_steps("watkins-q-lambda", trace_decay=0.8)
    first = 1 + 0.5 * 2
    assert sorted(learner.table.values[0, 0].tolist()) == pytest.approx([1.0, first - 0.5 * 0.4 * 3])
    assert learner.table.values[0, 1].tolist() == pytest.approx([4 - 0.5 * 3, 2.0])
