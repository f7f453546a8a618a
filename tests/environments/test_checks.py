"""Masks and numbers that are not finite, on every engine that can be given them."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from qfleet.environments import EnvironmentConfig, make
from qfleet.environments.checks import environment_seeds
from qfleet.errors import NonFiniteError, QfleetError


class MaskedEnv(gymnasium.Env):
    """Allows only the action that equals the time modulo 3; episodes of 4 steps; None allowed if `closes`."""

    def __init__(self, closes_at: int = -1, truncates: bool = True):
        self.observation_space = gymnasium.spaces.Box(0, 10, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.closes_at, self.truncates, self.time = closes_at, truncates, 0

    def _answer(self):
        mask = np.arange(3) == self.time % 3
        if self.time == self.closes_at:
            mask[:] = False
        return np.array([self.time], np.float32), {"action_mask": mask.astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._answer()

    def step(self, action):
        assert action == self.time % 3
        self.time += 1
        observation, info = self._answer()
        ended = self.time == 4
        return observation, 1.0, ended and not self.truncates, ended and self.truncates, info


@pytest.mark.parametrize("engine", ["in-process", "processes"])
def test_masks_go_with_the_observations_they_belong_to(engine):
    vector = make(MaskedEnv, EnvironmentConfig(num_envs=3, engine=engine, num_processes=2))
    _, masks = vector.reset(0)
    for time in range(1, 9):
        assert masks is not None and (masks.sum(axis=1) == 1).all()
        step = vector.step(masks.argmax(axis=1))
        masks = step.action_masks
        assert masks is not None and step.final_action_masks is not None
        assert (masks.argmax(axis=1) == (time % 4) % 3).all()
        if time % 4 == 0:
            assert step.truncated.all() and (step.final_action_masks.argmax(axis=1) == 4 % 3).all()
    vector.close()


def test_a_mask_that_allows_nothing_names_environment_and_step():
    vector = make(lambda: MaskedEnv(closes_at=2), EnvironmentConfig(num_envs=1, engine="in-process"))
    vector.reset(0)
    vector.step(np.array([0]))
    with pytest.raises(QfleetError, match="mask of environment 0 at step 2 of its episode allows no action"):
        vector.step(np.array([1]))


def test_nothing_need_be_allowed_after_the_end():
    vector = make(lambda: MaskedEnv(4, truncates=False), EnvironmentConfig(num_envs=1, engine="in-process"))
    vector.reset(0)
    steps = [vector.step(np.array([time % 3])) for time in range(4)]
    assert steps[-1].terminated.all()


def test_taxis_masks_are_found():
    vector = make("Taxi-v4", EnvironmentConfig(num_envs=4))
    observations, masks = vector.reset(0)
    assert masks is not None and masks.shape == (4, 6) and (observations.sum(axis=1) == 1).all()
    env: Any = gymnasium.make("Taxi-v4").unwrapped
    for row, mask in zip(observations, masks, strict=True):
        np.testing.assert_array_equal(mask, env.action_mask(int(row.argmax())))
    vector.close()


class VectorWithMasks(VectorEnv):
    """Two environments; only the second has a mask; everything is truncated in the second step."""

    def __init__(self, num_envs=2, same_step=False):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP if same_step else AutoresetMode.NEXT_STEP}
        self.num_envs, self.same_step, self.time = num_envs, same_step, 0
        self.single_observation_space = gymnasium.spaces.Discrete(9)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _info(self, allowed):
        masks = np.array([[False, False], [allowed == 0, allowed == 1]])
        return {"action_mask": masks, "_action_mask": np.array([False, True])}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.int64), self._info(0)

    def step(self, actions):
        self.time += 1
        ended = np.full(2, self.time == 2)
        info, observations = self._info(self.time % 2), np.full(2, self.time)
        if self.same_step and ended.all():
            final = np.array([2, 2], object)
            info = self._info(0) | {"final_obs": final, "final_info": self._info(1)}
            observations = np.zeros(2, np.int64)
        return observations, np.ones(2), np.zeros(2, bool), ended, info


def vector_with_masks(**options: Any) -> VectorEnv:
    return VectorWithMasks(**options)


@pytest.mark.parametrize("same_step", [False, True])
def test_masks_of_vector_environments(same_step):
    name = f"MaskedVector{int(same_step)}-v0"
    if name not in registry:
        gymnasium.register(name, vector_entry_point=vector_with_masks, kwargs={"same_step": same_step})
    vector = make(name, EnvironmentConfig(num_envs=2))
    _, masks = vector.reset(0)
    assert masks is not None and masks.tolist() == [[True, True], [True, False]]
    first, second = vector.step(np.zeros(2, np.int64)), vector.step(np.zeros(2, np.int64))
    assert first.action_masks is not None and first.action_masks.tolist() == [[True, True], [False, True]]
    assert second.final_action_masks is not None
    assert second.final_action_masks[1].tolist() == ([False, True] if same_step else [True, False])
    assert second.final_observations.argmax(axis=1).tolist() == [2, 2]


class SpoiltEnv(gymnasium.Env):
    """One number is wrong in the third step: the reward, the observation, or an observation too large."""

    def __init__(self, what: str, ends: bool):
        dtype = np.float64 if what == "large" else np.float32
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), dtype)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.what, self.ends, self.time = what, ends, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.is_second = seed == environment_seeds(0, 2)[1]
        self.time = 0
        return np.zeros(2, self.observation_space.dtype), {}

    def step(self, action):
        self.time += 1
        wrong = self.time == 3 and self.is_second
        observation = np.zeros(2, self.observation_space.dtype)
        if wrong and self.what != "reward":
            observation[1] = 1e300 if self.what == "large" else np.nan
        reward = float("inf") if wrong and self.what == "reward" else 0.0
        return observation, reward, self.ends and wrong, False, {}


@pytest.mark.parametrize("engine", ["in-process", "processes"])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("what", ["reward", "observation", "large"])
def test_numbers_that_are_not_finite_name_environment_and_step(what, ends, engine):
    vector = make(
        lambda: SpoiltEnv(what, ends), EnvironmentConfig(num_envs=2, engine=engine, num_processes=1)
    )
    vector.reset(0)
    vector.step(np.zeros(2, np.int64))
    vector.step(np.zeros(2, np.int64))
    quantity = "reward" if what == "reward" else "observation"
    with pytest.raises(NonFiniteError, match=f"{quantity} of environment 1 at step 3 of its episode"):
        vector.step(np.zeros(2, np.int64))
    vector.close()


def test_seeds_depend_on_seed_and_index_alone():
    assert (environment_seeds(5, 3) == environment_seeds(5, 8)[:3]).all()
    seeds = np.concatenate([environment_seeds(seed, 100) for seed in range(20)])
    assert len(np.unique(seeds)) == 2000 and seeds.min() >= 0 and seeds.max() < 2**31
