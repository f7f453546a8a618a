"""What a run becomes: an agent that acts on an environment's own observations as the policy did."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import qfleet
from qfleet.deep.actor import FrameStacks
from qfleet.deep.parameters import parameters_of
from qfleet.deep_assembly import make_policy
from tests.runs_life.small_worlds import MatchEnv
from tests.runs_life.tiny import train_tiny

SHORT = {"steps": 800, "evaluate_every_steps": 800, "checkpoint_every_steps": 800}


def returns_of(agent: qfleet.Agent, env: gymnasium.Env, num_episodes: int) -> list[float]:
    returns = []
    for seed in range(num_episodes):
        observation, info = env.reset(seed=seed)
        agent.reset()
        total, ended = 0.0, False
        while not ended:
            action = agent.act(observation, info.get("action_mask"))
            observation, reward, terminated, truncated, info = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


@pytest.mark.parametrize("environment", ["FrozenLake-v1", "Blackjack-v1", "Taxi-v4", "MinAtar/Breakout-v1"])
def test_discrete_tuple_masked_and_image_observations_train_a_little(environment, tmp_path: Path) -> None:
    run = train_tiny(environment, tmp_path / "run", **SHORT)
    assert run.summary["updates"] == 150
    env = gymnasium.make(environment, max_episode_steps=50)
    played = returns_of(qfleet.load(run.path), env, 5)
    env.close()
    assert played == returns_of(run.agent(), gymnasium.make(environment, max_episode_steps=50), 5)
    assert np.isfinite(run.values).all() and len(run.evaluate(4).returns) == 4


def test_a_dict_environment_is_learned_and_acted_on_with_its_own_actions(tmp_path: Path) -> None:
    run = train_tiny(
        MatchEnv, tmp_path / "run", steps=6000, learning_rate=5e-3, updates_per_step=0.5, discount=0.5
    )
    agent = qfleet.load(run.path, environment=MatchEnv)
    assert np.mean(returns_of(agent, MatchEnv(), 20)) >= 5.5
    observation = MatchEnv().reset(seed=0)[0]
    assert agent.act(observation) in (10, 11, 12) and agent.q_values(observation).shape == (3,)
    forbidden = np.ones(3, np.bool_)
    forbidden[agent.act(observation) - 10] = False
    assert agent.act(observation, forbidden) != agent.act(observation)


@pytest.mark.parametrize("wrappers", [(), ("FrameStackObservation=4",)])
def test_the_agent_acts_as_the_policy_in_the_vector_environment(wrappers, tmp_path: Path) -> None:
    run = train_tiny("MountainCar-v0", tmp_path / "run", wrappers=wrappers, **SHORT)
    vector = run.problem.evaluation_environment(1)
    depth, agent = vector.frame_stack, run.agent()
    assert depth == (4 if wrappers else 1)
    policy = make_policy(run.problem, run.problem.description())
    policy.load(parameters_of(run.values_state))
    stacks, started = FrameStacks(1, depth, 2, np.dtype(np.float32)), np.ones(1, np.bool_)
    observations, _ = vector.reset(3)
    for _ in range(250):  # past the time limit of 200
        stacks.push(observations, started)
        if started[0]:
            agent.reset()
        np.testing.assert_array_equal(agent.q_values(observations[0]), policy.values(stacks.stacked)[0])
        step = vector.step(np.array([int(policy.values(stacks.stacked)[0].argmax())]))
        observations, started = step.observations.copy(), step.started
    vector.close()


def test_evaluating_twice_with_one_seed_plays_the_same_episodes(tmp_path: Path) -> None:
    run = train_tiny("CartPole-v1", tmp_path / "run", **SHORT)
    one, two, other = (run.evaluate(6, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.returns, two.returns)
    assert (one.lengths == one.returns).all() and (one.lengths <= 60).all()
    assert not np.array_equal(one.returns, other.returns)
    again = qfleet.load_run(run.path).evaluate(3)
    assert again.mean == run.summary["evaluation"]["mean_return"]


def test_the_environment_may_be_an_object(tmp_path: Path) -> None:
    env = MatchEnv()
    run = train_tiny(env, tmp_path / "run", num_envs=1, **SHORT)
    assert run.summary["environment"] == "MatchEnv" and run.summary["steps"] == 800
    env.step(10)  # still open, still ours
    resumed = qfleet.resume(run.path, environment=MatchEnv)
    assert resumed.summary["steps"] == 800
