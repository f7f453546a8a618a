"""A process killed at any moment of a save leaves the checkpoint before, or the new one, whole."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from example_state import SEGMENT_BYTES, assert_equal, assert_is_step, state

from qfleet.runs.checkpoints import CheckpointStore

SEED = 30


def kill_at_random(folder: Path, num_kills: int) -> None:
    """Every kill comes at a moment spread over several saves; the next child goes on from what is left."""
    generator = random.Random(SEED)
    newest = newest_best = 0
    for _ in range(num_kills):
        run_child_for(folder, generator.uniform(0.0, 0.12))
        damaged: list[str] = []
        store = CheckpointStore(folder, keep=2, report=damaged.append, segment_bytes=SEGMENT_BYTES)
        loaded = store.load_newest()
        if loaded is None:
            assert newest == 0
            continue
        assert loaded[0] >= newest
        newest = loaded[0]
        assert_is_step(loaded, newest)
        for step in store.steps():
            assert_equal(store.load(step), state(step))
        best = store.load_best()
        best_step = best[0] if best else 0
        assert best_step >= newest_best
        if best_step:
            assert_is_step(best, best_step)
        newest_best = best_step
        assert damaged == []
    assert newest > num_kills  # the children did get on with it


def run_child_for(folder: Path, seconds: float) -> None:
    """Starts a child, waits until it saves, kills it after `seconds`."""
    child = [sys.executable, str(Path(__file__).with_name("kill_child.py")), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(child, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.kill()


def test_kills_during_saves(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 15)


@pytest.mark.soak
def test_two_hundred_kills_during_saves(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 200)
