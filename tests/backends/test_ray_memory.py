"""A table that no worker has room for is trained, and played from, by four that have room for a quarter each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from tests.backends import ray_cluster

ROOT = Path(__file__).parents[2]
PATHS = {"PYTHONPATH": os.pathsep.join([str(Path(qfleet.__file__).parents[1]), str(ROOT)])}
NUM_STATES, NUM_ACTIONS = 25_000_000, 4
STEPS = 4_000_000
TABLE_BYTES = 8 * NUM_STATES * NUM_ACTIONS
ROOM_BYTES = 770 * 10**6

WORLD = f"""
import os, resource, sys
from typing import NamedTuple
import qfleet

if "ray" in sys.modules:
    from ray._private import worker
    if worker.global_worker.mode == worker.WORKER_MODE:  # a real limit of the operating system, in workers alone
        status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        limit = 1024 * int(status["VmData"].split()[0]) + {ROOM_BYTES}
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

class Ring(NamedTuple):
    num_states: int

def step(ring, state, action, random):
    far = 1 if action < 2 else 100
    moved = state + far if action % 2 == 0 else state - far
    return moved % ring.num_states, 1.0 if action == 0 else 0.0, random < 0.01

def reset(ring, random):
    return int(random * ring.num_states)

RING = qfleet.World(step, reset, {NUM_STATES}, {NUM_ACTIONS}, Ring({NUM_STATES}), name="Ring", max_episode_steps=1000)
"""


def _qfleet(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qfleet", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | PATHS, capture_output=True, text=True, timeout=150
    )


def _train(folder: Path, workers: int, *flags: object) -> subprocess.CompletedProcess[str]:
    run = [
        "--backend",
        "ray",
        "--address",
        ray_cluster.address(),
        "--workers",
        workers,
        "--out",
        f"run{workers}",
    ]
    short = ["--steps", STEPS, "--final-episodes", 5, "--evaluation-episodes", 2, "--exact", "no"]
    short += ["--checkpoint-every-steps", STEPS, "--evaluate-every-steps", STEPS]
    (folder / "ring.py").write_text(WORLD)
    return _qfleet(
        folder, "train", "ring:RING", "--topology", "partitioned", *run, *short, "--quiet", "--json", *flags
    )


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_table_that_fits_in_four_workers_but_not_in_one(tmp_path: Path) -> None:
    alone = _train(tmp_path, 1)
    assert alone.returncode == 2 and len(alone.stderr.splitlines()) == 1, alone
    assert "worker 0 has no room for the 800" in alone.stderr and "more --workers" in alone.stderr
    assert TABLE_BYTES > ROOM_BYTES > TABLE_BYTES / 4
    done = _train(tmp_path, 4, "--keep-shards")
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["steps"] == STEPS and summary["rows_of_workers"] == [NUM_STATES // 4] * 4
    border = 8 * summary["told_values_per_round"] + 48 * summary["sent_walkers_per_round"]
    assert summary["sent_bytes_per_round"] < 4 * border + 2**20 < TABLE_BYTES / 10
    played = _qfleet(tmp_path, "evaluate", "run4", "--episodes", 3, "--json")
    assert played.returncode == 0, played.stderr
    assert np.isfinite(json.loads(played.stdout)["mean_return"])
