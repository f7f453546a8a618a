"""The world of examples/own_world.py: found by name, sound, and learned to its known best return."""

import sys
from pathlib import Path

import numpy as np

from qfleet.worlds.sources import find_world
from qfleet.worlds.world import World
from tests.worlds.driving import learned

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_windy_grid_takes_fifteen_steps(monkeypatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    world = find_world("own_world:GRID", {})
    assert isinstance(world, World)
    world.check()
    values = learned(world, 1_000_000, np.zeros((70, 4))).values[0]
    state, rewards, terminated = world.reset(world.parameters, 0.5), 0.0, False
    while not terminated and rewards > -100:
        action = int(np.argmax(values[state]))
        state, reward, terminated = world.step(world.parameters, state, action, 0.5)
        rewards += reward
    assert rewards == -15  # Sutton and Barto 2018, example 6.5
