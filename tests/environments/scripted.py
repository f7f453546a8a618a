"""An environment whose every episode is known beforehand, alone and as vector environments of both modes.

Environment `index` numbers its episodes from 0; episode e lasts `episode_length(index, e)` steps and is
truncated if `index + e` is odd, terminated if even. The observation is (index, episode, time, last action),
the reward of a step 100 * index + 10 * episode + time + action / 10.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from qfleet.environments.checks import environment_seeds

NUM_ACTIONS = 3
SEED = 7


def episode_length(index: int, episode: int) -> int:
    """1 to 5 steps; different for neighbours, so that episodes end at different times and together."""
    return 1 + (2 * index + 3 * episode) % 5


def is_truncated(index: int, episode: int) -> bool:
    return (index + episode) % 2 == 1


def scripted_actions(num_steps: int, num_envs: int) -> np.ndarray:
    """(num_steps, num_envs): what each environment is given at its own n-th real step."""
    steps, envs = np.meshgrid(np.arange(num_steps), np.arange(num_envs), indexing="ij")
    return ((steps * 7 + envs * 5 + steps // 3) % NUM_ACTIONS).astype(np.int64)


@dataclass(frozen=True)
class Transition:
    """One transition; observations as tuples of four numbers."""

    observation: tuple[float, ...]
    action: int
    reward: float
    next_observation: tuple[float, ...]
    terminated: bool
    truncated: bool


class ScriptedEnv(gymnasium.Env):
    """The environment of one index; without an index it takes the one whose seed `reset(SEED)` gives it."""

    def __init__(self, index: int | None = None, first_action: int = 0) -> None:
        self.index: Any = index
        self.episode, self.time, self.first_action = -1, 0, first_action
        self.observation_space = gymnasium.spaces.Box(-1, 1e6, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS, start=first_action)

    def _observation(self, action: int) -> np.ndarray:
        return np.array([self.index, self.episode, self.time, action], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.index is None:
            self.index = environment_seeds(SEED, 64).tolist().index(seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observation(-1), {}

    def step(self, action):
        assert self.action_space.contains(action)
        action = int(action) - self.first_action
        self.time += 1
        reward = 100 * self.index + 10 * self.episode + self.time + action / 10
        ended = self.time == episode_length(self.index, self.episode)
        truncated = ended and is_truncated(self.index, self.episode)
        return self._observation(action), reward, ended and not truncated, truncated, {}


class ScriptedVectorEnv(VectorEnv):
    """The same environments stepped together, with Gymnasium's next-step or same-step autoreset."""

    def __init__(self, num_envs: int = 1, *, same_step: bool = False) -> None:
        self.num_envs, self.same_step = num_envs, same_step
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP if same_step else AutoresetMode.NEXT_STEP}
        self.envs = [ScriptedEnv(index) for index in range(num_envs)]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.ended: Any = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        self.ended[:] = False
        for env in self.envs:
            env.episode = -1
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, actions):
        observations, final = np.zeros((self.num_envs, 4), np.float32), np.full(self.num_envs, None, object)
        rewards = np.zeros(self.num_envs)
        flags = np.zeros((2, self.num_envs), bool)
        for i, env in enumerate(self.envs):
            if self.ended[i]:
                observations[i] = env.reset()[0]
                continue
            observations[i], rewards[i], flags[0, i], flags[1, i], _ = env.step(actions[i])
            if self.same_step and flags[:, i].any():
                final[i] = observations[i].copy()
                observations[i] = env.reset()[0]
        ended = flags.any(axis=0)
        self.ended = ended & (not self.same_step)
        info = {"final_obs": final, "_final_obs": ended} if self.same_step and ended.any() else {}
        return observations, rewards, flags[0], flags[1], info


def _scripted_vector(**options: Any) -> VectorEnv:
    return ScriptedVectorEnv(**options)


def register_scripted() -> None:
    """Scripted-v0 (one at a time), ScriptedNextStep-v0 and ScriptedSameStep-v0, all numbered from 0."""
    gymnasium.register("Scripted-v0", f"{__name__}:ScriptedEnv")
    for name, same_step in (("NextStep", False), ("SameStep", True)):
        gymnasium.register(
            f"Scripted{name}-v0", vector_entry_point=_scripted_vector, kwargs={"same_step": same_step}
        )


def scalar_transitions(index: int, num_steps: int) -> list[Transition]:
    """What environment `index` gives in a plain loop: the truth that every engine has to agree with."""
    env, transitions = ScriptedEnv(index), []
    observation, _ = env.reset()
    for action in scripted_actions(num_steps, index + 1)[:, index].tolist():
        following, reward, terminated, truncated, _ = env.step(action)
        transitions.append(
            Transition(tuple(observation), action, reward, tuple(following), terminated, truncated)
        )
        observation = env.reset()[0] if terminated or truncated else following
    return transitions


def vector_transitions(vector, num_steps: int) -> list[list[Transition]]:
    """The first `num_steps` transitions of every environment, read off an engine's steps."""
    actions = scripted_actions(num_steps, vector.num_envs)
    taken = np.zeros(vector.num_envs, int)
    lists: list[list[Transition]] = [[] for _ in range(vector.num_envs)]
    observations, _ = vector.reset(SEED)
    while taken.min() < num_steps:
        chosen = actions[np.minimum(taken, num_steps - 1), np.arange(vector.num_envs)]
        before = observations
        step = vector.step(chosen)
        ended = step.terminated | step.truncated
        for i in np.flatnonzero(step.stepped & (taken < num_steps)):
            following = step.final_observations[i] if ended[i] else step.observations[i]
            flags = bool(step.terminated[i]), bool(step.truncated[i])
            lists[i].append(
                Transition(tuple(before[i]), int(chosen[i]), float(step.rewards[i]), tuple(following), *flags)
            )
        taken += step.stepped
        observations = step.observations
    return lists
