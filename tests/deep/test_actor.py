"""The actor: what it acts on, counts and hands on, and how it pauses."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry

from qfleet.deep.actor import Actor, FrameStacks, derived_seed
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.environments import EnvironmentConfig, make
from qfleet.replay.replay import Replay
from tests.environments.scripted import ScriptedVectorEnv, episode_length, register_scripted
from tests.replay.scalar_truth import drawable

if "Scripted-v0" not in registry:
    register_scripted()

CONFIG = DQNConfig(replay_capacity=4000, exploration_final=0.0, exploration_steps=0, n_step=3, discount=0.9)


class SumPolicy(Policy):
    """Acts by the sum of what it sees, so that every action tells which stack it was chosen for."""

    def __init__(self, num_actions: int) -> None:
        self.num_actions = num_actions
        self.version = -1

    def load(self, parameters: Parameters) -> None:
        self.version = parameters.version

    def values(self, observations: np.ndarray) -> np.ndarray:
        best = np.abs(observations.sum(axis=1) * 1000).astype(np.int64) % self.num_actions
        return np.eye(self.num_actions, dtype=np.float32)[best]


def parameters(version: int = 0) -> Parameters:
    return Parameters(version, np.zeros(1, np.float32))


def make_actor(name: str, num_envs: int = 3, block_steps: int = 12, **changes) -> tuple[Actor, Replay]:
    wrappers = ("FrameStackObservation=4",) if changes.pop("stacked", False) else ()
    vector = make(name, EnvironmentConfig(num_envs=num_envs, wrappers=wrappers))
    config = replace(CONFIG, **changes)
    replay = Replay(
        config,
        vector.layout,
        frame_stack=vector.frame_stack,
        num_mask_actions=0,
        num_envs=num_envs,
        n_step=config.n_step,
        max_steps_per_block=-(-block_steps // num_envs),
    )
    policy = SumPolicy(vector.num_actions)
    return Actor(vector, policy, config, num_mask_actions=0, seed=1, block_steps=block_steps), replay


def test_frame_stacks_repeat_the_first_and_keep_the_newest() -> None:
    stacks = FrameStacks(2, 3, 1, np.dtype(np.float32))
    stacks.push(np.array([[1.0], [10.0]]), np.array([True, True]))
    np.testing.assert_array_equal(stacks.stacked, [[1, 1, 1], [10, 10, 10]])
    stacks.push(np.array([[2.0], [20.0]]), np.array([False, False]))
    stacks.push(np.array([[3.0], [30.0]]), np.array([False, True]))
    np.testing.assert_array_equal(stacks.stacked, [[1, 2, 3], [30, 30, 30]])


@pytest.mark.parametrize("stacked", [False, True])
def test_every_action_fits_the_stack_that_the_replay_decodes(stacked: bool) -> None:
    """The stack that was acted on and the one rebuilt from single frames are one and the same."""
    actor, replay = make_actor("MountainCar-v0", stacked=stacked, n_step=1)
    actor.start()
    for version in range(60):
        gathered = actor.gather(parameters(version), 1000)
        assert gathered.version == version and gathered.num_steps == 12
        replay.append(gathered.block)
    transitions = drawable(replay)
    assert len(transitions) == 720
    policy = SumPolicy(3)
    for stored in transitions:
        seen = np.array([stored.observation], np.float32)
        assert len(stored.observation) == (8 if stacked else 2)
        assert policy.values(seen)[0].argmax() == stored.action
    actor.close()


@pytest.mark.parametrize("name", ["ScriptedNextStep-v0", "ScriptedSameStep-v0"])
def test_returns_lengths_and_steps_are_those_of_the_episodes(name: str) -> None:
    actor, replay = make_actor(name, num_envs=2, reward_limit=1.0)
    actor.start()
    returns, lengths, steps = [], [], 0
    while steps < 100:
        gathered = actor.gather(parameters(), 100 - steps)
        replay.append(gathered.block)
        returns, lengths = returns + gathered.returns, lengths + gathered.lengths
        steps += gathered.num_steps
    assert actor.num_steps == steps and 100 <= steps < 102
    # Clipped for learning alone: an unclipped episode of environment 1 brings at least 100.
    assert sum(value > 100 for value in returns) > 5
    assert max(stored.reward for stored in drawable(replay)) <= 1 + 0.9 + 0.81 + 1e-6
    found = [episode_of(value, length) for value, length in zip(returns, lengths, strict=True)]
    for index in (0, 1):
        own = sorted(episode for found_index, episode in found if found_index == index)
        assert own == list(range(len(own))) and len(own) > 10


def episode_of(value: float, length: int) -> tuple[int, int]:
    """The environment's index and the episode whose steps bring `value`, whatever the actions."""
    for index, episode in np.ndindex(2, 60):
        least = length * (100 * index + 10 * episode) + length * (length + 1) / 2
        if episode_length(index, episode) == length and -1e-6 <= value - least <= 0.2 * length + 1e-6:
            return index, episode
    raise AssertionError(f"no episode of {length} steps brings {value}")


def test_a_block_is_cut_at_the_steps_that_are_left() -> None:
    actor, _ = make_actor("CartPole-v1")
    actor.start()
    assert [actor.gather(parameters(), left).num_steps for left in (5, 6, 100)] == [6, 6, 12]
    actor.close()


def test_a_block_ends_when_its_time_is_over_and_not_before_the_first_step() -> None:
    stored = []
    for seconds, num_blocks in ((1e-9, 40), (60.0, 10)):
        actor, replay = make_actor("CartPole-v1")
        actor.start()
        blocks = [actor.gather(parameters(), 1000, max_seconds=seconds) for _ in range(num_blocks)]
        assert [block.num_steps for block in blocks] == [120 // num_blocks] * num_blocks
        for block in blocks:
            replay.append(block.block)
        stored.append(drawable(replay))
        actor.close()
    assert stored[0] == stored[1]


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0", "LunarLander-v3"])
def test_paused_and_resumed_in_another_actor_it_goes_on_bit_by_bit(name: str) -> None:
    first, _ = make_actor(name)
    first.start()
    for _ in range(9):
        first.gather(parameters(), 1000)
    state, _ = first.pause()
    second, _ = make_actor(name)
    second.resume(state)
    for _ in range(30):
        one, two = (actor.gather(parameters(), 1000) for actor in (first, second))
        for part in ("frames", "transitions"):
            mine, theirs = getattr(one.block, part), getattr(two.block, part)
            assert all(mine[key].tobytes() == theirs[key].tobytes() for key in mine)
        assert (one.returns, one.lengths, one.num_steps) == (two.returns, two.lengths, two.num_steps)
    first.close()
    second.close()


def test_pausing_what_cannot_be_saved_truncates_and_begins_anew() -> None:
    actor, replay = make_actor("LunarLander-v3")
    actor.start()
    replay.append(actor.gather(parameters(), 1000).block)
    state, block = actor.pause()
    assert state["environment"] == {} and len(block.transitions["frame"]) == 3 * 2  # two tails of three wait
    assert (block.transitions["discount"] > 0).all()
    assert len(block.frames["back"]) == 3 and not block.frames["back"].any()
    replay.append(block)
    assert len(replay) == 12
    actor.close()


def test_a_reward_in_the_call_that_a_reset_consumes_counts_for_nothing() -> None:
    class Generous(ScriptedVectorEnv):
        def step(self, actions):
            ended = self.ended.copy()
            observations, rewards, terminated, truncated, info = super().step(actions)
            return observations, np.where(ended, 1e6, rewards), terminated, truncated, info

    gymnasium.register("Generous-v0", vector_entry_point=lambda **options: Generous(**options))
    try:
        actor, _ = make_actor("Generous-v0", num_envs=2)
        actor.start()
        returns = [value for _ in range(10) for value in actor.gather(parameters(), 1000).returns]
    finally:
        del registry["Generous-v0"]
    assert returns and max(returns) < 1e5


def test_seeds_differ_by_run_and_reset() -> None:
    assert len({derived_seed(seed, number) for seed in range(30) for number in range(30)}) == 900
