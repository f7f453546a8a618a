"""From names and objects to worlds, and what is said where there is none."""

import importlib
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from qfleet.environments.config import EnvironmentConfig
from qfleet.errors import QfleetError
from qfleet.worlds.mdp import MDP
from qfleet.worlds.sources import find_world, is_discrete
from qfleet.worlds.world import World

MODULE = """
import numpy as np
import qfleet
def step(parameters, state, action, random): return (state + action) % 5, 1.0, False
def reset(parameters, random): return 0
GRID = qfleet.World(step, reset, 5, 2, name="mine")
EXPLICIT = qfleet.MDP.from_arrays(np.array([[1, 0], [0, 1]]), np.zeros((2, 2)))
def made(size=5): return qfleet.World(step, reset, size, 2, name="made")
def number(): return 3
def broken(): raise ValueError("no luck")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package in the current folder, as a user has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("homemade", "homemade.world"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("homemade").mkdir()
    Path("homemade/world.py").write_text(MODULE)
    Path("homemade/faulty.py").write_text("1 / 0\n")
    Path("homemade/needy.py").write_text("import no_such_package\n")
    importlib.invalidate_caches()
    return "homemade.world"


def test_worlds_are_found_by_module_and_name(module: str) -> None:
    grid = find_world(f"{module}:GRID", {})
    assert isinstance(grid, World) and grid.name == "mine"
    assert isinstance(find_world(f"{module}:EXPLICIT", {}), MDP)
    made = find_world(f"{module}:made", {})
    assert isinstance(made, World) and made.name == "made"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("homemade.world:GRIT", "module homemade.world has no GRIT; its worlds are GRID"),
        ("homemade.world:step", "of type function"),
        ("homemade.world:number", "returned int; it should return a World or an MDP"),
        ("homemade.world:broken", "failed: ValueError: no luck"),
        ("homemade.word:GRID", "there is no module homemade.word"),
        ("nowhere:GRID", "there is no module nowhere; it was looked for in"),
        ("homemade.faulty:GRID", "module homemade.faulty cannot be imported: ZeroDivisionError"),
        ("homemade.needy:GRID", "cannot be imported: No module named 'no_such_package'"),
    ],
)
def test_what_cannot_be_found_is_named(module: str, source: str, said: str) -> None:
    with pytest.raises(QfleetError) as caught:
        find_world(source, {})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_options_go_only_where_they_are_taken(module: str) -> None:
    with pytest.raises(QfleetError, match="slip"):
        find_world(f"{module}:GRID", {"slip": "0.1"})
    world = find_world("GridWorld-3", {"max_episode_steps": "7"})
    assert isinstance(world, World) and world.max_episode_steps == 7
    with pytest.raises(QfleetError, match="work with names and ids"):
        find_world(world, {"slip": "0.1"})


def test_objects_are_what_they_are() -> None:
    mdp = MDP.from_arrays(np.array([[0]]), np.zeros((1, 1)))
    assert find_world(mdp, {}) is mdp
    world = mdp.world()
    assert find_world(world, {}) is world
    assert find_world(lambda: gymnasium.make("CartPole-v1"), {}) is None


def test_gymnasium_environments_with_a_table_are_explicit() -> None:
    lake = find_world("FrozenLake-v1", {"map_name": "8x8", "is_slippery": "False"})
    assert isinstance(lake, MDP) and (lake.num_states, lake.max_episode_steps) == (64, 100)
    assert isinstance(find_world(gymnasium.make("CliffWalking-v1"), {}), MDP)
    wrapped = gymnasium.wrappers.TransformReward(
        gymnasium.make("CliffWalking-v1"), lambda reward: -float(reward)
    )
    for other in ("CartPole-v1", "MinAtar/Breakout-v1", "NoSuchThing-v3", wrapped):
        assert find_world(other, {}) is None


@pytest.mark.parametrize(
    ("name", "wrappers", "expected"),
    [
        ("Taxi-v4", (), True),
        ("Blackjack-v1", (), True),
        ("CartPole-v1", (), False),
        ("MountainCar-v0", ("DiscretizeObservation=4",), True),
        ("FrozenLake-v1", ("TimeLimit=9",), True),
        ("FrozenLake-v1", ("FlattenObservation",), False),
        ("MinAtar/Breakout-v1", (), False),
        ("NoSuchThing-v3", (), False),
    ],
)
def test_which_observations_a_table_can_number(name: str, wrappers: tuple[str, ...], expected: bool) -> None:
    assert is_discrete(name, EnvironmentConfig(wrappers=wrappers)) is expected
