"""Runs on Ray that lose workers and nodes end with the bits of runs that lose nobody; nodes that come are used."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.errors import FleetError
from tests.backends import ray_cluster
from tests.backends.ray_cluster import processes_named
from tests.clock import seconds
from tests.segments import segments
from tests.tables import table_bytes

STEPS = 250_000_000
RUN: dict[str, Any] = {
    "algorithm": "q-learning",
    "workers": 3,
    "backend": "ray",
    "steps": STEPS,
    "final_episodes": 5,
    "evaluation_episodes": 5,
    "until_return": float("inf"),
    "exact": "no",
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "averaged": {"topology": "averaged", "learning_rate_schedule": "visits"},
    "partitioned": {"topology": "partitioned"},
    "shards": {"topology": "partitioned", "keep_shards": True},
}
LEARNING_SECONDS = seconds(10.0, 30.0)
SOURCES = str(Path(qfleet.__file__).parents[1])
PATHS = {"PYTHONPATH": os.pathsep.join([SOURCES, str(Path(__file__).parents[2])])}


def worker_processes() -> list[int]:
    return processes_named(b"ray::RayService")


class Watch:
    """What is seen of a run from outside: when it made steps, and what it said."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        self.struck: list[float] = []
        self.others: list[int] = []
        """Workers of other fleets of this process, which are let be."""

    def on_status(self, status: qfleet.Status) -> None:
        self.seen.append((time.monotonic(), status.steps))

    def seconds_until_new_steps(self) -> list[float]:
        """From each strike to the first status with more steps than any before the strike."""
        found = []
        for moment in self.struck:
            before = max((steps for at, steps in self.seen if at <= moment), default=0)
            found.append(
                next((at for at, steps in self.seen if at > moment and steps > before), moment) - moment
            )
        return found


@contextmanager
def strikes(watch: Watch, strike: Callable[[], bool], times: int, chance: random.Random) -> Iterator[None]:
    """While entered, strikes at random moments, each time after the run has gone on; then lets it be."""
    over = threading.Event()
    watch.others = worker_processes()

    def go() -> None:
        while len(watch.struck) < times and not over.wait(chance.uniform(0.2, 1.2)):
            has_gone_on = watch.seen and (not watch.struck or watch.seen[-1][0] > watch.struck[-1])
            if has_gone_on and strike():
                watch.struck.append(time.monotonic())

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _send(how: signal.Signals, chance: random.Random, others: list[int]) -> bool:
    processes = [number for number in worker_processes() if number not in others]
    if processes:
        os.kill(chance.choice(processes), how)
    return bool(processes)


def _train(name: str, out: Path, **settings: Any) -> qfleet.Run:
    return qfleet.train("GridWorld-32", out=out, **(RUN | TOPOLOGIES[name] | settings))


def _struck_run(name: str, how: str, out: Path, chance: random.Random) -> tuple[qfleet.Run, Watch]:
    """A run of three workers on three nodes, the last of which is gone for good if it is struck."""
    cluster = ray_cluster.cluster()
    watch, node = Watch(), cluster.add_node(**ray_cluster.NODE)

    def strike() -> bool:
        if how != "node":
            return _send(signal.Signals[how], chance, watch.others)
        cluster.remove_node(node, allow_graceful=False)
        return True

    with strikes(watch, strike, 1, chance):
        run = _train(name, out, on_status=watch.on_status)
    if how != "node":
        cluster.remove_node(node)
    return run, watch


@pytest.mark.parametrize(
    ("how", "names"),
    [("SIGKILL", ["averaged"])]
    + [
        pytest.param(how, [*TOPOLOGIES] * 7, marks=[pytest.mark.soak, pytest.mark.alone])
        for how in ("SIGKILL", "SIGSTOP", "node")
    ],
)
def test_a_run_that_loses_workers_ends_with_the_bits_of_one_that_does_not(
    how: str, names: list[str], tmp_path: Path
) -> None:
    chance, calm = random.Random(how), {}
    for number, name in enumerate(names):
        if name not in calm:
            calm[name] = _train(name, tmp_path / f"calm {name}", backend="threads")
        run, watch = _struck_run(name, how, tmp_path / str(number), chance)
        assert len(watch.struck) == 1 and run.summary["restarts"] == 1
        assert table_bytes(run) == table_bytes(calm[name])
        for key in ("steps", "episodes", "rounds", "evaluation"):
            assert run.summary[key] == calm[name].summary[key], key
        assert max(watch.seconds_until_new_steps()) < LEARNING_SECONDS


def test_a_spent_budget_names_the_worker_and_its_node(tmp_path: Path) -> None:
    chance, watch = random.Random(2), Watch()
    with (
        strikes(watch, lambda: _send(signal.SIGKILL, chance, watch.others), 2, chance),
        pytest.raises(FleetError, match=r"worker \d \(process \d+ on .+\) .*all 1 restarts are spent"),
    ):
        _train("averaged", tmp_path / "run", on_status=watch.on_status, restarts=1, steps=10**11)
    assert worker_processes() == watch.others


@pytest.mark.soak
def test_a_killed_driver_is_resumed(tmp_path: Path) -> None:
    calm, others = _train("partitioned", tmp_path / "calm", backend="threads"), worker_processes()
    flags = f"--topology partitioned --workers 3 --backend ray --steps {STEPS} --exact no --until-return inf"
    flags += f" --final-episodes 5 --evaluation-episodes 5 --address {ray_cluster.address()} --quiet"
    command = [
        sys.executable,
        "-m",
        "qfleet",
        "train",
        "GridWorld-32",
        "--algorithm",
        "q-learning",
        *flags.split(),
    ]
    driver = subprocess.Popen([*command, "--out", "run"], cwd=tmp_path, env=os.environ | PATHS)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "run/checkpoints").glob("0*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.kill()
    assert driver.wait(10) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while worker_processes() != others and time.monotonic() < deadline:
        time.sleep(0.1)
    assert worker_processes() == others
    run = qfleet.resume(tmp_path / "run")
    assert run.summary["steps"] == STEPS and table_bytes(run) == table_bytes(calm)


ELASTIC = """
import json, pathlib, sys, threading
import qfleet
from tests.backends import ray_cluster
from tests.backends.test_ray_faults import worker_processes

ray_cluster.CPUS_A_NODE = 1
ray_cluster.NODE["num_cpus"] = 1
cluster = ray_cluster.cluster()
came, told = [], []

def on_status(status):
    workers = len(worker_processes())
    if told[-1:] != [workers]:
        told.append(workers)
    if workers == 2 and not came:
        came.append(cluster.add_node(**ray_cluster.NODE))
    elif workers == 3 and len(came) == 1:
        cluster.remove_node(came[0], allow_graceful=False)
        came.append(None)
    return told[-3:] != [2, 3, 2] and told[-2:] != [3, 2]

run = qfleet.train(
    "GridWorld-32", out=sys.argv[1], topology="partitioned", backend="ray", workers=2, max_workers=8, steps=10**11,
    exact="no", until_return=float("inf"), evaluation_episodes=5, quiet=False, on_status=on_status
)
print(json.dumps([told, run.summary["workers_at_end"], run.summary["steps"]]))
"""


def test_nodes_that_come_are_used_and_those_that_go_are_let_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ELASTIC, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ | PATHS)
    assert done.returncode == 0, done.stderr
    told, workers, steps = json.loads(done.stdout)
    assert [number for number in told if number][:2] == [2, 3] and workers == 2 and steps > 0
    assert "the cluster has room for 3 workers now, instead of 2" in done.stderr
    assert "new workers go on" in done.stderr and "has room for 2 workers now, instead of 3" in done.stderr


def _resident_bytes(process_id: int | str) -> int:
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.timeout(2400)
def test_half_an_hour_of_kills_leaves_nothing_behind(tmp_path: Path) -> None:
    """A random worker is killed every 20 s; the driver's memory stays flat, and nothing is left at the end."""
    minutes, every_seconds = float(os.environ.get("QFLEET_SOAK_MINUTES", "30")), 20.0
    chance, cluster = random.Random(30), ray_cluster.cluster()
    assert cluster is not None
    before, files = segments(), len(list(Path("/proc/self/fd").iterdir()))
    started, over = time.monotonic(), threading.Event()
    struck, others = [], worker_processes()
    memory: list[tuple[float, float]] = []

    def strike() -> None:
        while not over.wait(every_seconds):
            if _send(signal.SIGKILL, chance, others):
                struck.append(time.monotonic())

    def on_status(status: qfleet.Status) -> bool:
        minute = (time.monotonic() - started) / 60
        if not memory or minute - memory[-1][0] > 0.1:
            memory.append((minute, _resident_bytes("self") / 2**20))
        return minute < minutes

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        run = _train(
            "partitioned",
            tmp_path / "run",
            steps=10**13,
            restarts=10_000,
            on_status=on_status,
            checkpoint_every_steps=10**9,
            evaluate_every_steps=10**8,  # before memory is looked at, too: kernels that play are loaded once
        )
    finally:
        over.set()
        thread.join()
    settled = np.array([point for point in memory if point[0] > minutes / 6])
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0])
    sys.stderr.write(f"{len(struck)} kills, {run.summary['restarts']} restarts, {slope:.2f} MB/min\n")
    assert run.summary["restarts"] >= 0.9 * len(struck) >= 0.9 * (60 * minutes / every_seconds - 2)
    assert slope < 1
    assert worker_processes() == others
    assert segments() <= before
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 5
