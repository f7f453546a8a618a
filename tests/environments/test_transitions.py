"""Every engine, whenever it resets, gives the transition list of a plain scalar loop."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry

from qfleet.environments import EnvironmentConfig, Step, make
from tests.environments.scripted import (
    SEED,
    ScriptedEnv,
    register_scripted,
    scalar_transitions,
    vector_transitions,
)

NUM_ENVS, NUM_STEPS = 5, 60

if "Scripted-v0" not in registry:
    register_scripted()


def scripted_from_one() -> ScriptedEnv:
    return ScriptedEnv(first_action=1)


CASES = {
    "in-process": (ScriptedEnv, "in-process"),
    "actions-from-one": (scripted_from_one, "in-process"),
    "processes": (ScriptedEnv, "processes"),
    "next-step": ("ScriptedNextStep-v0", "registered"),
    "same-step": ("ScriptedSameStep-v0", "registered"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_engine_gives_the_scalar_loops_transitions(case):
    environment, engine = CASES[case]
    config = EnvironmentConfig(num_envs=NUM_ENVS, engine=engine, num_processes=2)
    vector = make(environment, config)
    try:
        assert vector.engine == engine
        lists = vector_transitions(vector, NUM_STEPS)
    finally:
        vector.close()
    for index, transitions in enumerate(lists):
        assert transitions == scalar_transitions(index, NUM_STEPS)


def test_the_script_has_every_kind_of_end():
    transitions = [t for index in range(NUM_ENVS) for t in scalar_transitions(index, NUM_STEPS)]
    assert sum(t.terminated for t in transitions) > 20
    assert sum(t.truncated for t in transitions) > 20
    lengths = {t.next_observation[2] for t in transitions if t.terminated or t.truncated}
    assert lengths == {1, 2, 3, 4, 5}


def test_resetting_in_mid_episode_starts_anew_everywhere():
    for engine in ("in-process", "processes"):
        vector = make("MountainCar-v0", EnvironmentConfig(num_envs=3, engine=engine, num_processes=2))
        first = vector.reset(SEED)[0].copy()
        vector.step(np.zeros(3, np.int64))
        again = vector.reset(SEED)[0].copy()
        other = vector.reset(SEED + 1)[0]
        assert (first == again).all() and (first != other).any() and len(set(first[:, 0])) == 3
        vector.close()


def _mountain_car_end(vector) -> tuple[int, np.ndarray, Step]:
    """(the step at which all were truncated, its last observations, itself); actions are all 'no push'."""
    vector.reset(3)
    for time in range(1, 202):
        step = vector.step(np.ones(vector.num_envs, np.int64))
        assert not step.terminated.any() and step.stepped.all() and (step.rewards == -1).all()
        if step.truncated.any():
            assert step.truncated.all()
            return time, step.final_observations.copy(), step
    raise AssertionError("never truncated")


@pytest.mark.parametrize("engine", ["envpool", "in-process", "processes"])
def test_time_limit_truncates_at_the_true_last_observation(engine):
    vector = make("MountainCar-v0", EnvironmentConfig(num_envs=2, engine=engine, num_processes=2))
    time, final, step = _mountain_car_end(vector)
    assert time == 200
    following = vector.step(np.ones(2, np.int64))
    resets_later = engine == "envpool"
    assert (step.started == (not resets_later)).all()
    assert (following.stepped == (not resets_later)).all() and (following.started == resets_later).all()
    first = following.observations if resets_later else step.observations
    # Episodes start at rest; the last one does not end so.
    assert (first[:, 1] == 0).all() and (final[:, 1] != 0).all()
    assert vector.step(np.ones(2, np.int64)).stepped.all()
    vector.close()


def test_envpools_cartpole_follows_the_equations_to_the_true_end():
    vector = make("CartPole-v1", EnvironmentConfig(num_envs=4, engine="envpool"))
    reference: Any = gymnasium.make("CartPole-v1").unwrapped
    observations, _ = vector.reset(0)
    ends = 0
    for time in range(120):
        actions = (np.arange(4) + time // 3) % 2
        before, step = observations, vector.step(actions.astype(np.int64))
        ended = step.terminated | step.truncated
        for i in np.flatnonzero(step.stepped):
            reference.reset()
            reference.state = before[i].astype(np.float64)
            expected, _, terminated, _, _ = reference.step(int(actions[i]))
            following = step.final_observations[i] if ended[i] else step.observations[i]
            np.testing.assert_allclose(following, expected, atol=1e-5)
            assert step.terminated[i] == terminated and step.rewards[i] == 1
        assert (step.rewards[~step.stepped] == 0).all() and (step.started == ~step.stepped).all()
        ends += ended.sum()
        observations = step.observations
    assert ends >= 4
    vector.close()


def test_ale_truncates_and_then_starts_with_a_step_that_is_none():
    config = EnvironmentConfig(num_envs=2, environment_options=("max_num_frames_per_episode=200",))
    vector = make("ALE/Pong-v5", config)
    assert (vector.engine, vector.frame_stack, vector.layout.shape) == ("ale", 4, (1, 84, 84))
    vector.reset(0)
    step = vector.step(np.zeros(2, np.int64))
    while not step.truncated.any():
        step = vector.step(np.zeros(2, np.int64))
    ended = step.truncated
    assert not step.terminated.any() and step.stepped.all()
    following = vector.step(np.zeros(2, np.int64))
    assert (following.stepped == ~ended).all() and (following.started == ended).all()
    assert not following.truncated[ended].any() and (following.rewards[ended] == 0).all()
    assert (following.observations[ended] != step.final_observations[ended]).any()
    vector.close()
