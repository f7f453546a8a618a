"""Rollouts: returns of every length to their end, held against a table made by hand; the mixture of epsilons."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from qfleet.assembly import Problem
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.rollouts import EPSILON_PROBABILITIES, FINAL_EPSILONS, Rollouts, final_epsilon
from qfleet.network_members import NetworkMembers
from qfleet.tuned import default_settings, with_values
from tests.environments.scripted import ScriptedEnv

GREEDY = {"exploration_initial": 0.0, "exploration_final": 0.0, "exploration_steps": 0, "discount": 0.5}

FORWARD_VIEW = [
    # (episode, time) acted on; reward and discount of the return; (episode, time) bootstrapped from
    [((0, 0), 1.0, 0.0, None), ((1, 0), 11 + 0.5 * 12, 0.25, (1, 2)), ((1, 1), 12.0, 0.5, (1, 2))],
    [((1, 2), 13 + 0.5 * 14, 0.25, (1, 4)), ((1, 3), 14.0, 0.5, (1, 4)), ((2, 0), 21.0, 0.5, (2, 1))],
    [((2, 1), 22.0, 0.0, None), ((3, 0), 31 + 0.5 * 32, 0.25, (3, 2)), ((3, 1), 32.0, 0.5, (3, 2))],
    [((3, 2), 33 + 17 + 8.75, 0.125, (3, 5)), ((3, 3), 34 + 17.5, 0.25, (3, 5)), ((3, 4), 35.0, 0.5, (3, 5))],
]
"""Rollouts of three steps of the scripted environment 0, which always gets action 0: rewards are 10 * episode + time.

Episodes last 1, 4, 2 and 5 steps; even ones are terminated, odd ones truncated.
"""


def members(environment: Any, **changes: Any) -> NetworkMembers:
    name = environment if isinstance(environment, str) else "Scripted"
    settings = with_values(
        default_settings(name, "async-n-step"), {"hidden_sizes": (8,), "num_envs": 1} | changes
    )
    problem = Problem(settings, environment)
    return NetworkMembers(problem, problem.description())


def always_first(found: Learner) -> Learner:
    """With all parameters 0 all actions are equal, and the first is taken."""
    given = found.publish()
    given.vector[:] = 0
    found.warm_start(given)
    return found


def test_returns_are_those_of_a_table_made_by_hand() -> None:
    made = members(partial(ScriptedEnv, 0), engine="in-process", rescale_observations=False, **GREEDY)
    config = made.problem.settings.dqn
    learner = always_first(made.make_learner(config, 0))
    rollouts = Rollouts(made, config, 3, 1, 0)
    rollouts.start()
    for wanted in FORWARD_VIEW:
        gathered, batch = rollouts.gather(learner, 100)
        assert gathered.num_steps == 3 and batch is not None
        np.testing.assert_array_equal(batch.rewards, [reward for _, reward, _, _ in wanted])
        np.testing.assert_array_equal(batch.discounts, [discount for _, _, discount, _ in wanted])
        np.testing.assert_array_equal(batch.weights, 1)
        for number, (acted, _, _, following) in enumerate(wanted):
            assert tuple(batch.observations[number, 1:3]) == acted
            if following is not None:
                assert tuple(batch.observations[3 + number, 1:3]) == following
    rollouts.close()


def test_the_last_rollout_may_be_shorter_and_settles_too() -> None:
    made = members(partial(ScriptedEnv, 0), engine="in-process", rescale_observations=False, **GREEDY)
    config = made.problem.settings.dqn
    learner = always_first(made.make_learner(config, 0))
    rollouts = Rollouts(made, config, 5, 1, 0)
    rollouts.start()
    gathered, batch = rollouts.gather(learner, 2)
    assert gathered.num_steps == 2 and batch is not None
    np.testing.assert_array_equal(batch.rewards, [1, 11])
    _, batch = rollouts.gather(learner, 1)
    assert batch is not None and batch.rewards.tolist() == [12]
    rollouts.close()


@pytest.mark.parametrize("engine", ["registered", "in-process"])
def test_every_step_becomes_one_transition_of_its_own_rollout(engine: str) -> None:
    """Of several environments whose episodes end at different times, however the next ones begin."""
    made = members("CartPole-v1", num_envs=3, engine=engine, **GREEDY | {"exploration_final": 1.0})
    rollouts = Rollouts(made, made.problem.settings.dqn, 4, 3, 0)
    learner, ended = made.make_learner(made.problem.settings.dqn, 0), 0
    rollouts.start()
    for _ in range(100):
        gathered, batch = rollouts.gather(learner, 1000)
        assert batch is not None and gathered.num_steps == len(batch.rewards)
        ended += len(gathered.lengths)
        terminated = batch.discounts == 0
        assert set(batch.discounts[~terminated]) <= {0.5, 0.25, 0.125, 0.0625}
        # A return of m rewards of 1, discounted by 0.5, is 2 - 2 * 0.5^m.
        np.testing.assert_array_equal(batch.rewards[~terminated], 2 - 2 * batch.discounts[~terminated])
        assert gathered.lengths or gathered.num_steps < 12 or (batch.discounts == 0.0625).sum() == 3
    assert ended > 20
    rollouts.close()


def test_stacks_reach_back_into_earlier_rollouts() -> None:
    made = members("CartPole-v1", num_envs=2, wrappers=("FrameStackObservation=4",), **GREEDY)
    config = made.problem.settings.dqn
    learner = made.make_learner(config, 0)
    rollouts = Rollouts(made, config, 2, 2, 0)
    rollouts.start()
    before: dict[bytes, bytes] = {}
    for _ in range(40):
        _, batch = rollouts.gather(learner, 1000)
        assert batch is not None
        num = len(batch.rewards)
        stacks = batch.observations.reshape(2 * num, 4, -1)
        for stack in stacks[:num]:
            if (known := before.get(stack[-2].tobytes())) is not None:
                assert stack[:-1].tobytes() == known
        before |= {stack[-1].tobytes(): stack[1:].tobytes() for stack in stacks}
    assert len(before) > 40
    rollouts.close()


def test_final_epsilons_come_as_often_as_the_paper_says() -> None:
    num = 20_000
    drawn = np.array([final_epsilon(seed, rank) for seed in range(num // 4) for rank in range(4)])
    for epsilon, probability in zip(FINAL_EPSILONS, EPSILON_PROBABILITIES, strict=True):
        deviation = np.sqrt(probability * (1 - probability) / num)
        assert abs(np.mean(drawn == epsilon) - probability) < 4.5 * deviation  # fails once in 50,000 times
    assert [final_epsilon(5, rank) for rank in range(3)] == [final_epsilon(5, rank) for rank in range(3)]
    assert EPSILON_PROBABILITIES == (0.4, 0.3, 0.3) and FINAL_EPSILONS == (0.1, 0.01, 0.5)


def test_a_config_of_its_own_learns_as_any_other() -> None:
    """What a rollout replaces in the settings is what it does not use: double, loss and discount stay."""
    made = members("CartPole-v1", double=False, loss="squared")
    config: DQNConfig = made.problem.settings.dqn
    learner = made.make_learner(config, 0)
    rollouts = Rollouts(made, config, 5, 1, 0)
    rollouts.start()
    _, batch = rollouts.gather(learner, 100)
    assert batch is not None
    gradient = learner.gradient(batch)
    assert gradient.loss == pytest.approx(0.5 * np.mean(gradient.td_errors**2), rel=1e-5)
    rollouts.close()
