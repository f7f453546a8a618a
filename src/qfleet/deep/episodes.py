"""Whole episodes, gathered with a softmax policy: what a policy gradient is made from."""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.actor import FrameStacks, derived_seed
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.deep.policy_gradient import sample_actions
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.environments.vector import Step, VectorEnvironment
from qfleet.errors import NonFiniteError, QfleetError


class Episodes(NamedTuple):
    """Whole episodes, their steps one after another."""

    observations: NDArray
    """(num_steps, frame_stack * size): what the policy saw, as it was stacked."""
    masks: NDArray[np.bool_]
    """(num_steps, num_actions), or (num_steps, 0) where nothing is masked."""
    actions: NDArray[np.int64]
    """(num_steps,)"""
    rewards: NDArray[np.float64]
    """(num_steps,)"""
    lengths: NDArray[np.int64]
    """(num_episodes,): steps of each."""
    truncated: NDArray[np.bool_]
    """(num_episodes,): whether it was cut off rather than terminated."""
    final_observations: NDArray
    """(num_episodes, frame_stack * size): what followed the last step."""


@dataclass(frozen=True)
class GatheredEpisodes:
    """What one call of an actor brought."""

    episodes: Episodes
    returns: list[float]
    """Of each episode, undiscounted."""
    lengths: list[int]
    """Their steps."""
    version: int
    """Of the parameters acted with."""

    @property
    def num_steps(self) -> int:
        """Environment steps in the episodes."""
        return len(self.episodes.actions)


@final
class _Wave:
    """One episode of each of the first `num_playing` environments, as it goes on."""

    def __init__(self, num_playing: int, num_envs: int, num_inputs: int, dtype: np.dtype) -> None:
        self.playing = np.arange(num_envs) < num_playing
        self._num_playing = num_playing
        self._columns: dict[str, list[NDArray]] = {
            name: [] for name in ("observations", "masks", "actions", "rewards", "playing")
        }
        self._truncated = np.zeros(num_envs, np.bool_)
        self._final_observations = np.zeros((num_envs, num_inputs), dtype)

    def record(
        self, stacked: NDArray, masks: NDArray[np.bool_], actions: NDArray[np.int64], step: Step, cut: bool
    ) -> None:
        """Adds a vector step; with `cut`, the episodes that go on end here."""
        added = (stacked, masks, actions, step.rewards, self.playing)
        for column, array in zip(self._columns.values(), added, strict=True):
            column.append(array[: self._num_playing].copy())
        ended = step.terminated | step.truncated
        ending = self.playing & (ended | cut)
        if ending.any():
            num = len(actions)
            newest = np.where(
                ended[:, None], step.final_observations.reshape(num, -1), step.observations.reshape(num, -1)
            )
            following = np.concatenate([stacked[:, newest.shape[1] :], newest], axis=1)
            self._final_observations[ending] = following[ending]
            self._truncated[ending] = ~step.terminated[ending]
            self.playing &= ~ending

    def episodes(self) -> Episodes:
        """The episodes, in the order of their environments."""
        columns = {name: np.stack(arrays, axis=1) for name, arrays in self._columns.items()}
        played = columns.pop("playing")
        return Episodes(
            **{name: column[played] for name, column in columns.items()},
            lengths=played.sum(axis=1),
            truncated=self._truncated[: self._num_playing],
            final_observations=self._final_observations[: self._num_playing],
        )


@final
class EpisodeActor:
    """Plays whole episodes with the parameters it is given.

    All environments begin anew and play one episode each, at most as many as are asked for; this is repeated until
    there are enough. So every episode that is begun counts (taking whichever end first would prefer short ones), all of
    it was acted by one policy, and between two calls no environment has a state to keep. The steps of an
    environment whose episode is over, while others go on, are looked at by nobody and not counted.
    """

    def __init__(
        self,
        environment: VectorEnvironment,
        policy: Policy,
        config: ReinforceConfig,
        *,
        num_mask_actions: int,
        seed: int,
    ) -> None:
        self._environment, self._policy, self._config, self._seed = environment, policy, config, seed
        self._no_masks = np.ones((environment.num_envs, num_mask_actions), np.bool_)
        self._num_vector_steps, self._num_resets = 0, 0
        self.num_steps = 0
        """Steps of all episodes gathered so far."""

    def gather(self, parameters: Parameters) -> GatheredEpisodes:
        """Plays `episodes_per_update` episodes; raises NonFiniteError if the policy's logits are not finite."""
        self._policy.load(parameters)
        waves, left = [], self._config.episodes_per_update
        while left > 0:
            waves.append(self._play_wave(min(left, self._environment.num_envs)))
            left -= len(waves[-1].lengths)
        episodes = Episodes(*(np.concatenate(columns) for columns in zip(*waves, strict=True)))
        starts = np.cumsum(episodes.lengths) - episodes.lengths
        returns = np.add.reduceat(episodes.rewards, starts)
        self.num_steps += len(episodes.actions)
        return GatheredEpisodes(episodes, returns.tolist(), episodes.lengths.tolist(), parameters.version)

    def _play_wave(self, num_episodes: int) -> Episodes:
        environment, layout = self._environment, self._environment.layout
        stacks = FrameStacks(environment.num_envs, environment.frame_stack, layout.size, layout.dtype)
        observations, masks = environment.reset(derived_seed(self._seed, self._num_resets))
        self._num_resets += 1
        started = np.ones(environment.num_envs, np.bool_)
        wave = _Wave(num_episodes, environment.num_envs, stacks.stacked.shape[1], layout.dtype)
        for number in range(1, self._config.max_episode_steps + 1):
            stacks.push(observations.reshape(environment.num_envs, -1), started)
            allowed = self._checked(masks)
            actions = self._act(stacks.stacked, allowed)
            step = environment.step(actions)
            wave.record(stacks.stacked, allowed, actions, step, number == self._config.max_episode_steps)
            if not wave.playing.any():
                break
            observations, masks, started = step.observations, step.action_masks, step.started
        return wave.episodes()

    def _checked(self, masks: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        if masks is None:
            return self._no_masks
        if masks.shape != self._no_masks.shape:
            raise QfleetError(
                "info['action_mask'] came in a step but not in the first reset; an environment that masks actions "
                "has to do so from its reset on"
            )
        return masks

    def _act(self, stacked: NDArray, masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        actions = np.empty(len(stacked), np.int64)
        sample_actions(self._policy.values(stacked), masks, self._seed, self._num_vector_steps, actions)
        self._num_vector_steps += 1
        if actions.min() < 0:
            raise NonFiniteError(
                "the policy's logits are not finite; a smaller --learning-rate usually helps"
            )
        return actions

    def begin_at(self, num_steps: int) -> None:
        """In a run that goes on with another number of actors: draws are others than those of the first steps."""
        self._num_vector_steps = self._num_resets = self.num_steps = num_steps

    def pause(self) -> dict[str, Any]:
        """Everything further episodes depend on but the parameters; between two calls only."""
        return {"counters": np.array([self._num_vector_steps, self._num_resets, self.num_steps], np.int64)}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on, in a newly made actor, from what `pause` returned."""
        self._num_vector_steps, self._num_resets, self.num_steps = (int(n) for n in state["counters"])

    def close(self) -> None:
        """Closes the environments."""
        self._environment.close()
