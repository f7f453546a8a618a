"""The process engine's faults: a worker that dies, fails or hangs is named, and nothing is left behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import QfleetError
from tests.child_processes import children, newest
from tests.segments import segments


class TroubledEnv(gymnasium.Env):
    """Does what the action says: 0 nothing, 1 die, 2 raise, 3 sleep for ever."""

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        return np.array([os.getpid() % 1000 / 1000], np.float32), {}

    def step(self, action):
        if action == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == 2:
            raise ZeroDivisionError("no more\nluck")
        while action == 3:
            time.sleep(0.05)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def _num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def nothing_left():
    before, descriptors = children(), _num_descriptors()
    yield
    gc.collect()
    assert children() <= before
    assert _num_descriptors() <= descriptors


def _troubled(step_timeout_seconds: float = 60):
    config = EnvironmentConfig(
        num_envs=4, engine="processes", num_processes=2, step_timeout_seconds=step_timeout_seconds
    )
    vector = make(TroubledEnv, config)
    vector.reset(0)
    vector.step(np.zeros(4, np.int64))
    return vector


@pytest.mark.parametrize(
    ("trouble", "said", "noted"),
    [(1, "was ended by SIGKILL at step 2", ""), (2, "ZeroDivisionError: no more luck at step 2", "in step")],
)
def test_a_worker_that_dies_or_fails_is_named_at_once(trouble, said, noted, nothing_left):
    vector = _troubled()
    start = time.monotonic()
    with pytest.raises(QfleetError, match=r"process 1 \(environments 2 to 3\)") as caught:
        vector.step(np.array([0, 0, trouble, 0]))
    assert time.monotonic() - start < 2 + 2
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert noted in "\n".join(getattr(caught.value, "__notes__", []))
    with pytest.raises(QfleetError, match="closed"):
        vector.step(np.zeros(4, np.int64))


def test_a_worker_killed_between_steps_is_noticed_within_two_seconds(nothing_left):
    others = children()
    vector = _troubled()
    os.kill(newest(children() - others), signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(QfleetError, match="SIGKILL"):
        while time.monotonic() - start < 10:
            vector.step(np.zeros(4, np.int64))
    assert time.monotonic() - start < 2


def test_a_hang_is_named_with_the_line_that_hangs(nothing_left):
    vector = _troubled(step_timeout_seconds=1)
    start = time.monotonic()
    with pytest.raises(QfleetError, match=r"process 0 .* did not answer within 1 s at step 2") as caught:
        vector.step(np.array([3, 0, 0, 0]))
    assert time.monotonic() - start < 8
    assert "in step" in "\n".join(caught.value.__notes__)


def test_an_environment_that_cannot_be_made_in_the_worker_is_named(nothing_left):
    owner = os.getpid()

    def only_here():
        if os.getpid() != owner:
            raise OSError("licence server is away")
        return TroubledEnv()

    with pytest.raises(QfleetError, match="OSError: licence server is away while it started"):
        make(only_here, EnvironmentConfig(num_envs=2, engine="processes", num_processes=1))


class Stopping:
    """Ten megabytes; whoever pickles them stops its children first, but for those it had before."""

    def __init__(self):
        self.others = children()

    def __reduce__(self):
        for number in children() - self.others:
            os.kill(number, signal.SIGSTOP)
        return bytes, (bytes(10**7),)


def test_a_worker_that_does_not_take_its_environments_is_named(nothing_left, monkeypatch):
    """It hangs where it starts: what it is sent fills the pipe, and the pipe's deadline is what counts."""
    monkeypatch.setattr("qfleet.environments.processes._TRANSFER_SECONDS", 1)
    content = Stopping()

    def holding():
        assert content is not None
        return TroubledEnv()

    started = time.monotonic()
    with pytest.raises(
        QfleetError, match=r"process 0 .* did not take what it was sent within 1 s while it started"
    ):
        make(holding, EnvironmentConfig(num_envs=2, engine="processes", num_processes=1))
    assert time.monotonic() - started < 1 + 2 + 5


def test_closing_twice_leaves_nothing(nothing_left):
    vector = _troubled()
    vector.close()
    vector.close()


ORPHANS = """
import os, numpy as np
from qfleet.environments import EnvironmentConfig, make
from tests.environments.test_processes import TroubledEnv
config = EnvironmentConfig(num_envs=2, engine="processes", num_processes=2)
vector = make(TroubledEnv, config)
vector.reset(0)
print(*[worker._process.pid for worker in vector._workers], flush=True)
vector.step(np.array([0, {action}]))
os.read(0, 1)
"""


@pytest.mark.parametrize("action", [0, 3])
def test_a_killed_parent_leaves_no_process_and_no_segment(action):
    """The parent is a script on standard input: it has no main module that could be imported again."""
    before = segments()
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join([root, *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS.format(action=action)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.2)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(_is_running(pid) for pid in workers):
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in workers)
    assert segments() <= before


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
