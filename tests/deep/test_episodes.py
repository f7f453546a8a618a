"""Whole episodes: what the actor gathers, counts and draws, and how it pauses."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry

from qfleet.deep.episodes import EpisodeActor, Episodes
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import NonFiniteError, QfleetError
from tests.deep.small_mdp import MASKS, NUM_STATES, SmallMDP
from tests.environments.scripted import episode_length, is_truncated, register_scripted

if "Scripted-v0" not in registry:
    register_scripted()


class ConstantPolicy(Policy):
    """The same logits everywhere."""

    def __init__(self, logits: list[float]) -> None:
        self._logits = np.array(logits, np.float32)

    def load(self, parameters: Parameters) -> None:
        self.version = parameters.version

    def values(self, observations: np.ndarray) -> np.ndarray:
        return np.tile(self._logits, (len(observations), 1))


PARAMETERS = Parameters(7, np.zeros(1, np.float32))


def actor_of(name: str, num_envs: int = 3, *, stacked: bool = False, seed: int = 1, **changes: Any):
    wrappers = ("FrameStackObservation=3",) if stacked else ()
    vector = make(name, EnvironmentConfig(num_envs=num_envs, wrappers=wrappers))
    config = ReinforceConfig(**changes)
    return EpisodeActor(
        vector, ConstantPolicy([0.0] * vector.num_actions), config, num_mask_actions=0, seed=seed
    )


def split(episodes: Episodes) -> list[Episodes]:
    """Each episode by itself."""
    ends = np.cumsum(episodes.lengths)
    parts = [slice(end - length, end) for end, length in zip(ends, episodes.lengths, strict=True)]
    columns: list[Any] = list(episodes)
    return [
        Episodes(*(column[part] for column in columns[:4]), *(column[i : i + 1] for column in columns[4:]))
        for i, part in enumerate(parts)
    ]


@pytest.mark.parametrize("num_episodes", [1, 3, 8])
@pytest.mark.parametrize("name", ["ScriptedNextStep-v0", "ScriptedSameStep-v0"])
def test_as_many_whole_episodes_as_asked_for_on_every_engine(name: str, num_episodes: int) -> None:
    actor = actor_of(name, episodes_per_update=num_episodes)
    gathered = actor.gather(PARAMETERS)
    assert gathered.version == 7 and len(gathered.lengths) == len(gathered.returns) == num_episodes
    assert gathered.num_steps == sum(gathered.lengths) == actor.num_steps
    for episode, value in zip(split(gathered.episodes), gathered.returns, strict=True):
        index, number = episode.observations[0, :2].astype(int)
        num = episode_length(index, number)
        times = np.arange(1, num + 1)
        seen = np.vstack([episode.observations[1:], episode.final_observations])
        np.testing.assert_array_equal(seen[:, 2], times)
        np.testing.assert_array_equal(seen[:, 3], episode.actions)
        np.testing.assert_allclose(episode.rewards, 100 * index + 10 * number + times + episode.actions / 10)
        assert episode.truncated[0] == is_truncated(index, number)
        assert episode.rewards.sum() == pytest.approx(value)
    actor.close()


def test_episodes_are_the_environments_own_step_for_step() -> None:
    """Played again alone, action for action: the same observations, rewards, ends."""
    actor = actor_of("CartPole-v1", num_envs=2, episodes_per_update=5)
    alone = gymnasium.make("CartPole-v1").unwrapped
    for episode in split(actor.gather(PARAMETERS).episodes):
        alone.reset(seed=0)
        alone.state = episode.observations[0].astype(np.float64)  # pyright: ignore[reportAttributeAccessIssue]
        following = np.vstack([episode.observations[1:], episode.final_observations])
        for i, action in enumerate(episode.actions):
            observation, reward, terminated, _, _ = alone.step(int(action))
            np.testing.assert_allclose(observation, following[i], atol=1e-4)
            assert reward == episode.rewards[i] and terminated == (i == len(following) - 1)
        assert not episode.truncated[0]
    actor.close()


def test_stacks_end_with_what_followed_the_last_step() -> None:
    actor = actor_of("MountainCar-v0", num_envs=2, stacked=True, episodes_per_update=2, max_episode_steps=30)
    for episode in split(actor.gather(PARAMETERS).episodes):
        frames = episode.observations.reshape(30, 3, 2)
        np.testing.assert_array_equal(frames[0], np.tile(frames[0, 0], (3, 1)))
        np.testing.assert_array_equal(frames[1:, :2], frames[:-1, 1:])
        last = episode.final_observations.reshape(3, 2)
        np.testing.assert_array_equal(last[:2], frames[-1, 1:])
        assert (last[2] != last[1]).any() and episode.truncated[0]
    actor.close()


def test_a_limit_cuts_episodes_and_says_so() -> None:
    gathered = actor_of("CartPole-v1", num_envs=4, episodes_per_update=12, max_episode_steps=15).gather(
        PARAMETERS
    )
    lengths, truncated = gathered.episodes.lengths, gathered.episodes.truncated
    assert lengths.max() == 15 and truncated.any() and not truncated.all()
    assert (truncated <= (lengths == 15)).all()


def test_masks_come_along_and_are_never_broken() -> None:
    config = ReinforceConfig(episodes_per_update=50)
    actor = EpisodeActor(SmallMDP(20), ConstantPolicy([0.0, 0.0, 0.0]), config, num_mask_actions=3, seed=1)
    episodes = actor.gather(PARAMETERS).episodes
    states = episodes.observations.argmax(axis=1)
    assert set(states) == set(range(NUM_STATES))
    np.testing.assert_array_equal(episodes.masks, MASKS[states])
    assert MASKS[states, episodes.actions].all()
    with pytest.raises(QfleetError, match="has to do so from its reset on"):
        EpisodeActor(SmallMDP(2), ConstantPolicy([0.0] * 3), config, num_mask_actions=0, seed=1).gather(
            PARAMETERS
        )


def test_the_same_seed_draws_the_same_bits_and_a_resumed_actor_goes_on() -> None:
    whole, first, other = (actor_of("CartPole-v1", seed=seed, episodes_per_update=4) for seed in (1, 1, 2))
    batches = [whole.gather(PARAMETERS) for _ in range(3)]
    again = [first.gather(PARAMETERS) for _ in range(2)]
    resumed = actor_of("CartPole-v1", episodes_per_update=4)
    resumed.resume(first.pause())
    again.append(resumed.gather(PARAMETERS))
    for one, two in zip(batches, again, strict=True):
        for left, right in zip(one.episodes, two.episodes, strict=True):
            assert left.tobytes() == right.tobytes()
    assert resumed.num_steps == whole.num_steps
    assert other.gather(PARAMETERS).episodes.actions.tobytes() != batches[0].episodes.actions.tobytes()
    assert batches[0].returns != batches[1].returns


def test_logits_that_are_not_finite_are_named() -> None:
    vector = make("CartPole-v1", EnvironmentConfig(num_envs=2))
    policy = ConstantPolicy([np.nan, 0.0])
    actor = EpisodeActor(vector, policy, ReinforceConfig(), num_mask_actions=0, seed=1)
    with pytest.raises(NonFiniteError, match="logits are not finite"):
        actor.gather(PARAMETERS)
