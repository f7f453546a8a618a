"""An actor's priorities are those that a plain computation gives for the transitions that the replay holds."""

import itertools
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry

from qfleet.deep.actor import Actor
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.replay.recorder import Block
from qfleet.replay.replay import Replay
from tests.environments.scripted import ScriptedEnv, register_scripted
from tests.replay.scalar_truth import Stored, decoded

if "Scripted-v0" not in registry:
    register_scripted()

CONFIG = DQNConfig(
    replay_capacity=4000,
    priority_exponent=0.6,
    priority_floor=0.01,
    exploration_final=0.3,
    exploration_steps=0,
    discount=0.9,
)


class NumberedEnv(ScriptedEnv):
    """Each one made has the next index; the seed does not say which."""

    made = itertools.count()

    def __init__(self) -> None:
        super().__init__(next(self.made) % 5)


class WavePolicy(Policy):
    """Values that no two stacks have in common, neither large nor equal; times what the parameters say."""

    def __init__(self, num_actions: int) -> None:
        self.num_actions, self.factor, self.num_calls = num_actions, 1.0, 0

    def load(self, parameters: Parameters) -> None:
        self.factor = float(parameters.vector[0])

    def values(self, observations: np.ndarray) -> np.ndarray:
        self.num_calls += 1
        places = np.arange(1, observations.shape[1] + 1)
        phase = (observations.astype(np.float64) * places).sum(axis=1)
        waves = np.sin(phase[:, None] * 0.37 + 1.7 * np.arange(self.num_actions)) * 40
        return (self.factor * waves).astype(np.float32)


def parameters(factor: float = 1.0) -> Parameters:
    return Parameters(0, np.array([factor], np.float32))


def make_actor(
    source,
    engine: str,
    *,
    n_step: int,
    frame_stack: int = 1,
    block_steps: int = 12,
    num_masks: int = 0,
    **options,
) -> tuple[Actor, Replay, WavePolicy]:
    vector = make(source, EnvironmentConfig(num_envs=3, engine=engine))  # pyright: ignore[reportArgumentType]
    vector.frame_stack = frame_stack
    config, policy = replace(CONFIG, n_step=n_step), WavePolicy(vector.num_actions)
    replay = Replay(
        config,
        vector.layout,
        frame_stack=frame_stack,
        num_mask_actions=num_masks,
        num_envs=3,
        n_step=n_step,
        max_steps_per_block=-(-block_steps // 3),
    )
    settings = {"seed": 1, "block_steps": block_steps, "makes_priorities": True} | options
    return Actor(vector, policy, config, num_mask_actions=num_masks, **settings), replay, policy


def made(block: Block) -> np.ndarray:
    assert block.priorities is not None
    return block.priorities


def by_hand(policy: WavePolicy, stored: Stored, allowed: np.ndarray | slice = slice(None)) -> float:
    """(|R + discount max Q(s') - Q(s, a)| + floor)^alpha."""
    error = stored.reward - policy.values(np.array([stored.observation]))[0, stored.action]
    if stored.discount:
        following = policy.values(np.array([stored.next_observation]))[0, allowed]
        error += stored.discount * following.max()
    return float((abs(error) + 0.01) ** 0.6)


ENGINES = {
    "in-process": (NumberedEnv, "in-process"),
    "next-step": ("ScriptedNextStep-v0", "registered"),
    "same-step": ("ScriptedSameStep-v0", "registered"),
}


@pytest.mark.parametrize("frame_stack", [1, 4])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_stored_transition_has_the_priority_computed_by_hand(
    engine: str, n_step: int, frame_stack: int
) -> None:
    """Episodes of 1 to 5 steps, half of them terminated, half truncated; blocks end anywhere in them."""
    source, name = ENGINES[engine]
    actor, replay, policy = make_actor(source, name, n_step=n_step, frame_stack=frame_stack)
    actor.start()
    for _ in range(30):
        replay.append(actor.gather(parameters(), 1000).block)
    actor.close()
    num_terminal = 0
    for row in range(len(replay)):
        stored = decoded(replay, row)
        assert replay.tree[row] == pytest.approx(by_hand(policy, stored), rel=1e-4, abs=1e-5)
        num_terminal += stored.discount == 0
    assert 40 < num_terminal < len(replay) - 40 and len(replay) > 250
    assert replay.running[0] == replay.tree[: len(replay)].max()


class MaskedEnv(gymnasium.Env):
    """Of three actions, the one that equals time modulo 3 is forbidden; truncated every 4 steps."""

    observation_space = gymnasium.spaces.Box(0, 1000, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def _look(self):
        mask = np.arange(3) != self.time % 3
        return np.array([self.time, self.episode, 0, 1], np.float32), {"action_mask": mask.astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = getattr(self, "episode", -1) + 1
        self.time = 0
        return self._look()

    def step(self, action):
        assert action != self.time % 3
        self.time += 1
        observation, info = self._look()
        return observation, 0.5 * self.time, False, self.time == 4, info


def test_forbidden_actions_are_not_bootstrapped_from() -> None:
    actor, replay, policy = make_actor(MaskedEnv, "in-process", n_step=1, num_masks=3)
    actor.start()
    for _ in range(20):
        replay.append(actor.gather(parameters(), 1000).block)
    actor.close()
    differing = 0
    for row in range(len(replay)):
        stored = decoded(replay, row)
        allowed = np.arange(3) != int(stored.next_observation[0]) % 3
        expected = by_hand(policy, stored, allowed)
        assert replay.tree[row] == pytest.approx(expected, rel=1e-4)
        differing += abs(by_hand(policy, stored) - expected) > 1e-3 * expected
    assert len(replay) == 240 and differing > 40


def test_the_values_are_of_the_parameters_acted_with() -> None:
    """Q(s, a) of a block's first transitions is of its own parameters, and so is the bootstrap at its end."""
    actor, replay, policy = make_actor(NumberedEnv, "in-process", n_step=1)
    actor.start()
    for number in range(10):
        factor, first = 1.0 + number, replay.transitions.num_rows
        replay.append(actor.gather(parameters(factor), 1000).block)
        for row in range(first, replay.transitions.num_rows):
            assert replay.tree[row] == pytest.approx(
                by_hand(policy, decoded(replay, row)), rel=1e-4, abs=1e-5
            )
    actor.close()


def test_acting_is_the_same_and_costs_one_forward_pass_more_a_block() -> None:
    blocks, calls = [], []
    for makes_priorities in (False, True):
        actor, _, policy = make_actor(
            "ScriptedNextStep-v0", "registered", n_step=3, makes_priorities=makes_priorities
        )
        actor.start()
        blocks.append([actor.gather(parameters(), 1000).block for _ in range(10)])
        calls.append(policy.num_calls)
        actor.close()
    assert calls == [40, 50]
    for without, made in zip(*blocks, strict=True):
        assert without.priorities is None and len(made.priorities) == len(made.transitions["frame"])
        assert without.first_frame == made.first_frame
        for name in without.transitions:
            np.testing.assert_array_equal(without.transitions[name], made.transitions[name])


@pytest.mark.parametrize("name", ["CartPole-v1", "LunarLander-v3"])
def test_paused_and_resumed_it_makes_the_same_priorities(name: str) -> None:
    """LunarLander cannot be saved: its tails are cut, and the transitions that gives have priorities too."""
    first, replay, policy = make_actor(name, "in-process", n_step=3)
    first.start()
    for _ in range(9):
        replay.append(first.gather(parameters(), 1000).block)
    state, block = first.pause()
    assert len(made(block)) == len(block.transitions["frame"]) == (9 if name[0] == "L" else 0) * 2 // 3
    replay.append(block)
    for row in range(len(replay)):
        assert replay.tree[row] == pytest.approx(by_hand(policy, decoded(replay, row)), rel=1e-3, abs=1e-4)
    # Another length of blocks: the next block's first transitions need values from before the pause.
    second, _, _ = make_actor(name, "in-process", n_step=3, block_steps=24)
    second.resume(state)
    both = [first.gather(parameters(), 1000).block for _ in range(2)]
    one, two = (np.concatenate([made(block) for block in both]), second.gather(parameters(), 1000).block)
    np.testing.assert_array_equal(one, made(two))
    first.close()
    second.close()


def test_values_that_are_not_finite_are_told() -> None:
    actor, _, _ = make_actor(NumberedEnv, "in-process", n_step=1)
    actor.start()
    with pytest.raises(NonFiniteError, match="an actor's priorities are not finite"):
        actor.gather(parameters(np.nan), 1000)
    actor.close()


def test_a_uniform_replay_needs_no_priorities() -> None:
    vector = make(NumberedEnv, EnvironmentConfig(num_envs=3, engine="in-process"))
    with pytest.raises(QfleetError, match="priority_exponent is 0"):
        Actor(
            vector,
            WavePolicy(3),
            DQNConfig(),
            num_mask_actions=0,
            seed=1,
            block_steps=12,
            makes_priorities=True,
        )
    vector.close()
