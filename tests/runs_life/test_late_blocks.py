"""A member that is alive but late while another is lost: what it was about to hand on is gathered anew."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from tests.runs_life.service_runs import WHO_ACTS, settings_of, soaked
from tests.runs_life.trouble import Trouble, process_id_of, troubled

STALL_SECONDS, DOZE_SECONDS, GIVEN_UP_SECONDS = 4.0, 6.0, 30.0
"""One who dozes is late, and answers within as much time again."""


class Dozing(gymnasium.Env):
    """Of all there are, the first that finds the file `doze` takes it away and sleeps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 10
        return self.observation_space.sample(), {}

    def step(self, action):
        if (self._folder / "doze").exists():
            (self._folder / "doze").rename(self._folder / f"dozing {os.getpid()}")
            time.sleep(DOZE_SECONDS)
        self._left -= 1
        return self.observation_space.sample(), float(action), self._left == 0, False, {}


def kill_the_other(trouble: Trouble, role: str, folder: Path) -> None:
    """Of two members, once one of them dozes."""
    (folder / "doze").touch()
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while not (found := list(folder.glob("dozing *"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dozing, members = int(found[0].name.split()[1]), trouble.members()
    (other,) = (name for name, number in members.items() if name.startswith(role) and number != dozing)
    trouble.send(other, signal.SIGKILL)


@pytest.mark.parametrize("topology", soaked([("ape-x",)], [("ape-x",), ("asynchronous",)]))
def test_a_block_that_is_late_when_another_is_lost_leaves_no_gap(topology: str, tmp_path: Path) -> None:
    changes = {"checkpoint_every_steps": 10**6, "evaluate_every_steps": 10**6, "engine": "in-process"}
    settings = settings_of(
        topology,
        steps=20_000,
        restarts=1,
        stall_timeout_seconds=STALL_SECONDS,
        updates_per_step=0.01,
        **changes,
    )
    with troubled(partial(Dozing, tmp_path), tmp_path / "run", settings) as (training, trouble):
        killer = threading.Thread(
            target=kill_the_other, args=(trouble, WHO_ACTS[topology], tmp_path), daemon=True
        )
        for status in training:
            trouble.see(status)
            if status.steps >= 1000 and killer.ident is None:
                killer.start()
        killer.join(GIVEN_UP_SECONDS)
        crews = trouble.training.trainee.topology._crews
        living = {process_id_of(handle) for crew in crews for handle in crew._handles}
        summary = training.summary(None)
    assert [loss.noticed_at < float("inf") for loss in trouble.losses] == [True]
    dozing = int(next(tmp_path.glob("dozing *")).name.split()[1])
    assert dozing in living and summary["restarts"] == 1
    assert summary["steps"] == 20_000 and summary["stopped_by"] == "steps"
