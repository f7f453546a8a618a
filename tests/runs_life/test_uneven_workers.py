"""Workers that do not wait for one another, and slow ones whose steps are delivered before a block is full."""

import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import qfleet
from tests.runs_life.tiny import TINY

NUM_STEPS, BLOCK, TIMES_AS_FAST = 640, 16, 4
_PATIENCE_SECONDS = 50.0
"""Kernels are compiled meanwhile, where none are cached."""
made: dict[str, int] = {}
"""Steps by the thread that has made them."""


class Uneven(gymnasium.Env):
    """Worker 0 makes a step only once worker 1 has made four, up to its share: it cannot if it has to wait for 0."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._observation = self.observation_space.sample()
        self._left = 10
        return self._observation, {}

    def step(self, action):
        name = threading.current_thread().name
        made[name] = made.get(name, 0) + 1
        if name in ("agent 0", "worker 0", "actor 0"):
            other, wanted = name.replace("0", "1"), min(TIMES_AS_FAST * made[name], NUM_STEPS // 2)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while made.get(other, 0) < wanted:
                assert time.monotonic() < deadline, (
                    f"{other} made {made.get(other, 0)} steps, {name} {made[name]}"
                )
                time.sleep(0.001)
        self._left -= 1
        return self._observation, float(action), self._left == 0, False, {}


@pytest.mark.parametrize(
    ("topology", "own"),
    [
        *(
            (topology, {"block_steps": BLOCK, "priority_exponent": exponent})
            for topology in ("asynchronous", "parameter-server", "ape-x")
            for exponent in (0.0, 0.6)
        ),
        ("async-n-step", {}),
    ],
)
def test_a_slow_worker_does_not_hold_the_others_up(
    topology: str, own: dict[str, Any], tmp_path: Path
) -> None:
    made.clear()
    settings = {
        name: value for name, value in TINY.items() if name not in ("block_steps", "priority_exponent")
    }
    settings |= {"steps": NUM_STEPS, "workers": 2, "topology": topology, "backend": "threads", "num_envs": 1}
    run = qfleet.train(Uneven, out=tmp_path / "run", **(settings | own))
    assert run.summary["steps"] == NUM_STEPS and run.summary["stopped_by"] == "steps"


class Slow(gymnasium.Env):
    """A hundred steps a second."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._observation = self.observation_space.sample()
        return self._observation, {}

    def step(self, action):
        name = threading.current_thread().name
        made[name] = made.get(name, 0) + 1
        time.sleep(0.01)
        return self._observation, float(action), made[name] % 10 == 0, False, {}


def test_slow_actors_deliver_as_they_go_and_share_the_steps_to_the_end(tmp_path: Path) -> None:
    made.clear()
    settings = TINY | {"steps": 400, "workers": 2, "topology": "ape-x", "backend": "threads", "num_envs": 1}
    settings |= {"block_steps": 300, "block_seconds": 0.1}
    with qfleet.begin(Slow, out=tmp_path / "run", **settings) as training:
        seen = {status.steps for status in training}
    assert len(seen) >= 20 and max(seen) == 400
    acted = [made["actor 0"], made["actor 1"]]
    assert sum(acted) == 400 and min(acted) >= 100
