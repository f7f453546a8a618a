"""The actor: steps environments with an exploring policy and gathers what a replay needs."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.exploration import epsilon_greedy
from qfleet.deep.initial_priorities import FrameValues
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.environments.vector import Step, VectorEnvironment
from qfleet.errors import QfleetError
from qfleet.replay.recorder import Block, Recorder


@dataclass(frozen=True)
class Gathered:
    """What one block of acting brought."""

    block: Block
    num_steps: int
    """Environment steps in the block, over all environments."""
    returns: list[float]
    """Of the episodes that ended, unclipped and undiscounted."""
    lengths: list[int]
    """Their steps."""
    version: int
    """Of the parameters acted with."""

    def staleness(self, num_updates: int) -> int:
        """Updates made since the parameters in use were published."""
        return num_updates - self.version


class FrameStacks:
    """Each environment's newest `depth` observations, oldest first; before there are so many, the first is repeated."""

    def __init__(self, num_envs: int, depth: int, size: int, dtype: np.dtype) -> None:
        self._depth = depth
        self.stacked = np.zeros((num_envs, depth * size), dtype)
        """(num_envs, depth * size): what a network receives."""
        self._frames = self.stacked.reshape(num_envs, depth, size)

    def push(self, observations: NDArray, started: NDArray[np.bool_]) -> None:
        """Adds `observations` (num_envs, size); where `started`, they fill the whole stack."""
        if self._depth > 1:
            self._frames[:, :-1] = self._frames[:, 1:]
        self._frames[:, -1] = observations
        if self._depth > 1 and started.any():
            self._frames[started] = observations[started][:, None]

    def followed_by(self, chosen: NDArray[np.bool_], observations: NDArray) -> NDArray:
        """What the `chosen` environments' stacks would be after `observations` (num_envs, size).

        Returns (num_chosen, depth * size).
        """
        newest = observations[chosen][:, None]
        return np.concatenate([self._frames[chosen, 1:], newest], axis=1).reshape(len(newest), -1)


@final
class Actor:
    """Owns its environments, their stacks, and the recorder; acts with parameters it is given."""

    def __init__(
        self,
        environment: VectorEnvironment,
        policy: Policy,
        config: DQNConfig,
        *,
        num_mask_actions: int,
        seed: int,
        block_steps: int,
        makes_priorities: bool = False,
    ) -> None:
        """`makes_priorities`: blocks carry their transitions' first priorities; it needs a priority_exponent."""
        self._environment, self._policy, self._config, self._seed = environment, policy, config, seed
        num_envs, layout = environment.num_envs, environment.layout
        self._vector_steps_per_block = -(-block_steps // num_envs)
        self._recorder = Recorder(
            num_envs,
            layout,
            num_mask_actions,
            n_step=config.n_step,
            discount=config.discount,
            reward_limit=config.reward_limit or np.inf,
            max_steps_per_block=self._vector_steps_per_block,
        )
        self._values = (
            _frame_values(config, num_envs, self._vector_steps_per_block) if makes_priorities else None
        )
        self._stacks = FrameStacks(num_envs, environment.frame_stack, layout.size, layout.dtype)
        self._masks = np.ones((num_envs, num_mask_actions), np.bool_)
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._num_vector_steps, self._num_resets = 0, 0
        self.num_steps = 0
        """Environment steps made so far, over all environments."""

    def start(self) -> None:
        """Begins a new episode in every environment."""
        observations, masks = self._environment.reset(derived_seed(self._seed, self._num_resets))
        self._num_resets += 1
        self._recorder.start(observations, masks)
        self._see(observations, masks, np.ones(len(observations), np.bool_))
        self._returns[:], self._lengths[:] = 0, 0

    def gather(
        self, parameters: Parameters, max_steps: int, *, max_seconds: float = math.inf, settle: bool = False
    ) -> Gathered:
        """Acts for one block, or until `max_steps` steps are made or `max_seconds` are over if that is sooner.

        The step of all environments that is under way then is finished, and there is one at least. `settle`: no
        transition waits for rewards of the next block; those it would wait for are left out of its return.
        """
        self._policy.load(parameters)
        before, returns, lengths = self.num_steps, [], []
        deadline = time.monotonic() + max_seconds
        for number in range(self._vector_steps_per_block):
            if self.num_steps - before >= max_steps or (number and time.monotonic() >= deadline):
                break
            self._step(returns, lengths)
        if settle:
            self._recorder.settle()
        if self._values is not None:
            # What the next block begins with; these transitions bootstrap from it already.
            self._values.add_unvalued(self._recorder.tails.current, self._stacks.stacked, self._masks)
            self._values.evaluate(self._policy)
        return Gathered(self._take(), self.num_steps - before, returns, lengths, parameters.version)

    def _take(self) -> Block:
        block = self._recorder.take()
        if self._values is None:
            return block
        return replace(block, priorities=self._values.priorities(block.transitions))

    def _step(self, returns: list[float], lengths: list[int]) -> None:
        actions = self._act(self._config.exploration_rate(self.num_steps))
        step = self._environment.step(actions)
        self._refuse_late_masks(step)
        self._recorder.record(actions, step)
        self._keep_last(step)
        self._see(step.observations, step.action_masks, step.started)
        self._count(step, returns, lengths)

    def _act(self, epsilon: float) -> NDArray[np.int64]:
        observations, masks = self._stacks.stacked, self._masks
        if self._values is None:
            return self._policy.act(observations, masks, epsilon, self._seed, self._num_vector_steps)
        actions, values = np.empty(len(observations), np.int64), self._policy.values(observations)
        epsilon_greedy(values, masks, epsilon, self._seed, self._num_vector_steps, actions)
        self._values.acted(self._recorder.tails.current, values, masks, actions)
        return actions

    def _keep_last(self, step: Step) -> None:
        """Truncated episodes' last observations, which are bootstrapped from and never acted on."""
        truncated = step.truncated & ~step.terminated
        if self._values is None or not np.count_nonzero(truncated):
            return
        finals = step.final_observations.reshape(len(truncated), -1)
        masks = self._masks if step.final_action_masks is None else step.final_action_masks
        frames = self._recorder.final_frames[truncated]
        self._values.add_unvalued(frames, self._stacks.followed_by(truncated, finals), masks[truncated])

    def _refuse_late_masks(self, step: Step) -> None:
        if step.action_masks is not None and self._masks.shape[1] == 0:
            raise QfleetError(
                "info['action_mask'] came in a step but not in the first reset; an environment that masks actions "
                "has to do so from its reset on"
            )

    def _see(
        self, observations: NDArray, masks: NDArray[np.bool_] | None, started: NDArray[np.bool_]
    ) -> None:
        self._stacks.push(observations.reshape(len(observations), -1), started)
        if masks is not None:
            self._masks[:] = masks

    def _count(self, step: Step, returns: list[float], lengths: list[int]) -> None:
        self._num_vector_steps += 1
        self.num_steps += int(np.count_nonzero(step.stepped))
        np.add(self._returns, step.rewards, out=self._returns, where=step.stepped)
        self._lengths += step.stepped
        ended = step.terminated | step.truncated
        if np.count_nonzero(ended):
            returns.extend(self._returns[ended].tolist())
            lengths.extend(self._lengths[ended].tolist())
            self._returns[ended], self._lengths[ended] = 0, 0

    def begin_anew(self) -> int:
        """Breaks all episodes off and begins new ones, between blocks; the number of the first frame that is new.

        No later block refers to a frame before it.
        """
        self._recorder.cut()
        self._recorder.take()
        first = self._recorder.next_frame
        self.start()
        return first

    def close(self) -> None:
        """Closes the environments."""
        self._environment.close()

    def pause(self) -> tuple[dict[str, Any], Block]:
        """Everything the next block depends on but the parameters, and a block that belongs before the pause.

        Only between blocks. Where the engine cannot save its environments, their episodes are truncated and
        new ones begin, in this run as in the one resumed from here; the block holds what that adds.
        """
        environment = self._environment.save_state()
        if environment is None:
            self._recorder.cut()
            self.start()
        block = self._take()
        own = {
            "counters": np.array([self._num_vector_steps, self._num_resets, self.num_steps], np.int64),
            "stacks": self._stacks.stacked.copy(),
            "masks": self._masks.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }
        if self._values is not None:
            own["values"] = self._values.save_state()
        return own | {"recorder": self._recorder.save_state(), "environment": environment or {}}, block

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on, in a newly made actor, from what `pause` returned."""
        self._num_vector_steps, self._num_resets, self.num_steps = (int(n) for n in state["counters"])
        self._stacks.stacked[:] = state["stacks"]
        self._masks[:] = state["masks"]
        self._returns[:], self._lengths[:] = state["returns"], state["lengths"]
        self._recorder.load_state(state["recorder"])
        if self._values is not None:
            self._values.load_state(state["values"], self._recorder.next_frame)
        # The reset that `pause` made, again; its observations are in the stacks already.
        self._environment.reset(derived_seed(self._seed, self._num_resets - 1))
        if state["environment"]:
            self._environment.load_state(state["environment"])


def _frame_values(config: DQNConfig, num_envs: int, vector_steps_per_block: int) -> FrameValues:
    if config.priority_exponent == 0:
        raise QfleetError(
            "priority_exponent is 0, which draws uniformly; actors can make priorities where it is above 0"
        )
    exponent, floor = config.priority_exponent, config.priority_floor
    return FrameValues(num_envs, config.n_step, vector_steps_per_block, exponent, floor)


def derived_seed(seed: int, number: int) -> int:
    """A seed of training environments for reset `number`; evaluation draws from others."""
    return int(np.random.SeedSequence([seed, 0x747261696E, number]).generate_state(1)[0])
