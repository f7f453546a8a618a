"""Learning in MDPs in arrays: the kernels, the masks and the memory that is asked for ahead."""

from dataclasses import replace

import numpy as np

from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import CACHED_BYTES, TableLearner, Task
from qfleet.worlds.mdp import MDP
from qfleet.worlds.world import World


def learn(world: World, steps: int, **settings) -> np.ndarray:
    """(num_states, num_actions) after some steps of Q-learning by random play."""
    config = TabularConfig(exploration="uniform", **settings)
    task = Task(world, "q-learning", config, seed=3, total_steps=steps)
    learner = TableLearner(task, 0, task.make_table(np.full(task.shape, config.initial_value)))
    learner.start()
    learner.advance(steps)
    return learner.table.values[0]


def random_mdp(num_states: int) -> MDP:
    generator = np.random.default_rng(0)
    nexts = generator.integers(0, num_states, (num_states, 4))
    return MDP.from_arrays(nexts, generator.random(nexts.shape), terminal=[0])


def test_a_slippery_lake_is_learned_to_within_the_noise():
    mdp = MDP.from_gymnasium("FrozenLake-v1")
    learned = learn(mdp.world(), 2_000_000, learning_rate_schedule="visits", learning_rate=1.0, discount=0.9)
    inside = mdp.reachable()
    np.testing.assert_allclose(learned[inside], mdp.solve(0.9)[inside], atol=0.02)
    assert (learned[~inside] == 0).all()


def test_masked_actions_are_never_taken():
    mdp = MDP.from_gymnasium("Taxi-v4")
    assert mdp.allowed is not None
    learned = learn(mdp.world(), 200_000, initial_value=-1000.0)
    assert (learned[~mdp.allowed] == -1000).all()
    assert (learned[mdp.allowed & mdp.reachable()[:, None]] != -1000).mean() > 0.9


def test_asking_for_memory_ahead_changes_nothing():
    # Larger than what the learner takes to be cached.
    world = random_mdp(CACHED_BYTES // 16).world()
    plain = learn(replace(world, approach=None), 100_000)
    np.testing.assert_array_equal(learn(world, 100_000), plain)
    assert (plain != 0).any()
