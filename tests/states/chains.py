"""A chain of five states as a compiled world and as a Gymnasium environment, the same step for step."""

from typing import Any

import gymnasium
import numpy as np

from qfleet.states.config import StatesConfig
from qfleet.states.learner import PythonLearner
from qfleet.states.task import PythonTask, make_python_task
from qfleet.tabular.config import TabularConfig
from qfleet.worlds.world import World

NUM_STATES, NUM_ACTIONS, LAST = 5, 3, 4
MAX_EPISODE_STEPS = 23


def chain_step(parameters, state, action, random):
    """Left, right, stay; the last state is terminal and worth 1, every step costs a little."""
    following = min(max(state + (-1 if action == 0 else action % 2), 0), 4)
    return following, (1.0 if following == 4 else -0.01 * (action + 1)), following == 4


def chain_reset(parameters, random):
    return 0


def chain_allowed(parameters, state, action):
    """There is no way left of the first state, and no rest in the second."""
    return not (state == 0 and action == 0) and not (state == 1 and action == 2)


def chain_world() -> World:
    return World(
        chain_step,
        chain_reset,
        NUM_STATES,
        NUM_ACTIONS,
        name="chain",
        max_episode_steps=MAX_EPISODE_STEPS,
        allowed=chain_allowed,
    )


class Chain(gymnasium.Env):
    """The same, with masks in its infos; numbers of states and actions begin at 7 and 2."""

    def __init__(self, faults: dict[int, Any] | None = None) -> None:
        self.observation_space = gymnasium.spaces.Discrete(NUM_STATES, start=7)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS, start=2)
        self.state, self.num_steps, self.faults = 0, 0, faults or {}

    def _info(self):
        return {
            "action_mask": np.array([chain_allowed((), self.state, a) for a in range(NUM_ACTIONS)], np.int8)
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return self.state + 7, self._info()

    def step(self, action):
        assert chain_allowed((), self.state, action - 2), "a masked action was taken"
        self.num_steps += 1
        self.state, reward, terminated = chain_step((), self.state, action - 2, 0.0)
        step: list[Any] = [self.state + 7, reward, terminated, False, self._info()]
        fault = self.faults.get(self.num_steps)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            step[fault[0]] = fault[1]
        return tuple(step)


def python_task(
    source: Any, rule: Any = "q-learning", steps: int = 1000, workers: int = 1, seed: int = 3, **settings: Any
) -> PythonTask:
    """A task; settings of StatesConfig are told from those of TabularConfig by their names."""
    of_states = {name: settings.pop(name) for name in list(settings) if hasattr(StatesConfig, name)}
    config = TabularConfig(**settings)
    return make_python_task(source, StatesConfig(**of_states), rule, config, seed, steps, workers)


def learner_of(task: PythonTask, *, weighted: bool = False, worker: int = 0) -> PythonLearner:
    table = task.make_table(np.full(task.shape, task.initial_value, task.dtype), weighted=weighted)
    learner = task.make_learner(worker, table, weighted=weighted)
    learner.start()
    return learner
