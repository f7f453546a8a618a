"""What is learned from Python's steps is what the compiled walk learns, and is right."""

from functools import partial
from typing import get_args

import gymnasium
import numpy as np
import pytest

from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import Task
from qfleet.tabular.program import Rule

from .chains import MAX_EPISODE_STEPS, Chain, chain_world, learner_of, python_task

SETTINGS = {"exploration_initial": 0.5, "exploration_final": 0.1, "n_step": 3}
COMPARED = [
    ("double-q-learning", {}),
    ("tree-backup", {}),
    ("watkins-q-lambda", {}),
    ("expected-sarsa", {"exploration": "boltzmann", "temperature": 0.5}),
]


def _both(rule, settings, walkers=2, steps=3000):
    """(learner in Python, compiled learner) after as many steps."""
    settings = SETTINGS | settings | {"walkers": walkers}
    task = python_task(Chain, rule, steps, max_episode_steps=MAX_EPISODE_STEPS, **settings)
    compiled_task = Task(chain_world(), rule, TabularConfig(**settings), 3, steps)
    stepped = learner_of(task)
    table = compiled_task.make_table(np.zeros(compiled_task.shape))
    compiled = compiled_task.make_learner(0, table)
    compiled.start()
    return stepped, compiled


@pytest.mark.parametrize(("rule", "settings"), COMPARED)
def test_python_steps_are_those_of_the_compiled_walk(rule, settings):
    stepped, compiled = _both(rule, settings)
    advances = [[learner.advance(budget) for budget in (1, 700, 2299)] for learner in (stepped, compiled)]
    assert advances[0] == advances[1]
    assert stepped.table.values.any()
    # The compiler may add in another order within another kernel.
    np.testing.assert_allclose(stepped.table.values, compiled.table.values, rtol=1e-12)
    np.testing.assert_array_equal(stepped.sample_pairs(), compiled.sample_pairs())
    stepped.close()


def test_the_weights_of_a_merge_are_added_up():
    learner = learner_of(python_task(Chain, "q-learning", **SETTINGS), weighted=True)
    learner.advance(500)
    assert learner.table.log_weights.sum() == pytest.approx(-500 * np.log1p(-0.1))
    assert ((learner.table.log_weights > 0) == (learner.table.values != 0)).all()


def _frozen_lake_optimum(discount):
    """(16, 4) by iterating Bellman's equation on the environment's own table."""
    table = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped.P  # pyright: ignore[reportAttributeAccessIssue]
    values = np.zeros((16, 4))
    for _ in range(60):
        for state, action in np.ndindex(16, 4):
            ((_, following, reward, terminated),) = table[state][action]
            values[state, action] = reward + discount * values[following].max() * (not terminated)
    return values, [state for state in range(16) if state not in (5, 7, 11, 12, 15)]


@pytest.mark.parametrize("rule", ["q-learning", "double-q-learning", "tree-backup", "watkins-q-lambda"])
def test_frozen_lake_is_solved_exactly(rule):
    best, inside = _frozen_lake_optimum(0.9)
    task = python_task(
        "FrozenLake-v1", rule, 60_000, environment_options=("is_slippery=False",), walkers=2,
        discount=0.9, learning_rate=0.5, exploration_initial=1.0, exploration_final=0.6,
        trace_decay=0.0 if rule == "watkins-q-lambda" else 0.9,
    )  # fmt: skip
    learner = learner_of(task)
    learner.advance(60_000)
    learned = learner.table.values.mean(axis=0)
    np.testing.assert_allclose(learned[inside], best[inside], atol=1e-6)
    assert not learned[[5, 7, 11, 12, 15]].any()
    learner.close()


class Endless(gymnasium.Env):
    """One state, one action, reward 1; truncated after four steps, or terminated."""

    observation_space = gymnasium.spaces.Discrete(1)
    action_space = gymnasium.spaces.Discrete(1)

    def __init__(self, terminates):
        self.terminates, self.time = terminates, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, {}

    def step(self, action):
        self.time += 1
        ended = self.time == 4
        return 0, 1.0, ended and self.terminates, ended and not self.terminates, {}


@pytest.mark.parametrize("rule", get_args(Rule))
def test_truncated_bootstraps_and_terminated_does_not(rule):
    """Truncation changes nothing about 1 / (1 - 0.5) = 2; a quarter of terminal steps makes it 16 / 9 or so."""
    learned = []
    for terminates in (False, True):
        task = python_task(partial(Endless, terminates), rule, 8000, discount=0.5, **SETTINGS)
        learner = learner_of(task)
        advance = learner.advance(8000)
        assert (advance.episodes, advance.episode_steps, advance.returns) == (2000, 8000, 8000.0)
        learned.append(float(learner.table.values.mean()))
    assert learned[0] == pytest.approx(2, abs=1e-6)
    assert learned[1] < 1.9


def test_time_limits_are_honoured():
    learner = learner_of(python_task(partial(Endless, False), max_episode_steps=3))
    assert learner.advance(900).episodes == 300
    by_id = learner_of(python_task("CliffWalking-v1", max_episode_steps=50))
    advance = by_id.advance(2000)
    assert advance.episodes >= 40 and advance.episode_steps <= 50 * advance.episodes


def test_workers_play_episodes_of_their_own_and_the_same_seed_gives_the_same():
    tables = []
    for seed, worker in ((1, 0), (1, 1), (1, 1), (2, 1)):
        task = python_task("FrozenLake-v1", "q-learning", workers=2, seed=seed, initial_value=1.0)
        learner = learner_of(task, worker=worker)
        learner.advance(2000)
        tables.append(learner.table.values.tobytes())
        learner.close()
    assert tables[1] == tables[2] and len(set(tables)) == 3
