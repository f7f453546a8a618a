"""Worlds as environments of networks: Gymnasium's rules, the world's transitions, masks, limits, and whole runs."""

from pathlib import Path

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import qfleet
from qfleet.environments.state import load_environment, save_environment
from qfleet.errors import QfleetError
from qfleet.worlds.gymnasium_env import WorldMaker
from qfleet.worlds.world import World
from tests.topologies.table_teams import world_named


def _walk(parameters, state, action, random):
    return state + action + 1, float(state), state + action + 1 >= 5


def _begin(parameters, random):
    return int(random * 2)


def _only_short_steps(parameters, state, action):
    return action == 0 or state < 3


MASKED = World(_walk, _begin, 6, 2, (), "Stairs", 3, _only_short_steps)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_keeps_gymnasiums_rules() -> None:
    check_env(WorldMaker(world_named("GridWorld-4"))(), skip_render_check=True)


def test_steps_rewards_ends_masks_and_limits_are_the_worlds() -> None:
    env = WorldMaker(MASKED)()
    assert env.observation_space == gymnasium.spaces.Discrete(6)
    state, info = env.reset(seed=4)
    assert state in (0, 1) and info["action_mask"].tolist() == [1, 1]
    second, reward, terminated, truncated, _ = env.step(1)
    assert (second, reward, terminated, truncated) == (state + 2, float(state), False, False)
    third, _, _, _, info = env.step(np.int64(0))
    assert third == state + 3 and info["action_mask"].tolist() == [1, 0]
    *_, terminated, truncated, _ = env.step(0)
    assert terminated == (third == 4) and truncated, "three steps are its limit"


def test_the_same_seed_is_the_same_episode_also_after_saving_and_pickling() -> None:
    make = WorldMaker(world_named("GridWorld-8", slip="0.3"))
    env, others = make(), [make(), cloudpickle.loads(cloudpickle.dumps(make))()]
    env.reset(seed=7)
    for action in (0, 3, 1):
        env.step(action)
    saved = save_environment(env)
    assert saved is not None
    for other in others:
        other.reset(seed=99)
        load_environment(other, saved)
    for number in range(40):
        expected = env.step(number % 4)[:4]
        assert all(other.step(number % 4)[:4] == expected for other in others)


def _too_far(parameters, state, action, random):
    return 7, 0.0, False


def test_a_state_that_is_none_is_named() -> None:
    env = WorldMaker(World(_too_far, _begin, 3, 2, (), "Cliff"))()
    env.reset(seed=0)
    with pytest.raises(QfleetError, match="Cliff went to state 7; its states are 0 to 2"):
        env.step(0)


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "reinforce", "steps": 20_000},
        {"algorithm": "dqn", "steps": 20_000, "topology": "data-parallel", "workers": 2, "discount": 0.9},
    ],
)
def test_networks_learn_a_gridworld(settings: dict, tmp_path: Path) -> None:
    """Sixteen states, reward 1 in the last one; its own exact solution is the table's to have."""
    run = qfleet.train("GridWorld-4", out=tmp_path / "run", until_return=1.0, hidden_sizes=(64,), **settings)
    assert run.summary["evaluation"]["mean_return"] == 1.0
    agent = qfleet.load(tmp_path / "run")
    assert agent.act(14) == 3, "right, into the last cell"


def test_a_world_of_ones_own_is_learned_by_a_network_and_resumed_with_the_same_bits(tmp_path: Path) -> None:
    settings = {"algorithm": "dqn", "steps": 2000, "hidden_sizes": (8,), "until_return": float("inf")}
    whole = qfleet.train(MASKED, out=tmp_path / "whole", **settings)
    seen: list[int] = []

    def stop(status: qfleet.Status) -> bool:
        seen.append(status.steps)
        return status.steps < 970

    qfleet.train(MASKED, out=tmp_path / "run", on_status=stop, **settings)
    run = qfleet.resume(tmp_path / "run", environment=MASKED)
    assert run.values.tobytes() == whole.values.tobytes()
