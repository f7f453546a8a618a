"""Runs on Ray that lose workers and nodes go on, and end with the bits of threads that lost nobody."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import qfleet
from tests.backends import ray_cluster

RUN: dict[str, Any] = {
    "algorithm": "q-learning",
    "steps": 60_000_000,
    "workers": 3,
    "final_episodes": 5,
    "evaluation_episodes": 5,
    "until_return": float("inf"),
    "exact": "no",
    "stall_timeout_seconds": 20.0,
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "averaged": {"topology": "averaged", "learning_rate_schedule": "visits"},
    "partitioned": {"topology": "partitioned"},
}


def _workers() -> list[int]:
    """Process ids of the workers on this process's own cluster."""
    names = {int(path.parent.name): _read(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    services = [number for number, name in names.items() if name.startswith("ray::RayService")]
    return sorted(number for number in services if _parent(_parent(number)) == os.getpid())


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _parent(number: int) -> int:
    fields = _read(Path(f"/proc/{number}/stat")).rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def _signal_one(number: int) -> Callable[[], None]:
    return lambda: os.kill(_workers()[-1], number)


@contextmanager
def _struck(strike: Callable[[], None]) -> Iterator[list[float]]:
    """While entered, `strike` is called once, a moment after all workers are there; a list of when."""
    struck: list[float] = []
    over = threading.Event()

    def wait() -> None:
        while len(_workers()) < RUN["workers"] and not over.wait(0.1):
            pass
        if not over.wait(3.0):
            strike()
            struck.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


def _same_bits_though(strike: Callable[[], None], name: str, out: Path, told: Callable[[], str]) -> None:
    settings = RUN | TOPOLOGIES[name]
    calm = qfleet.train("GridWorld-32", out=out / "calm", backend="threads", **settings)
    with _struck(strike) as struck:
        run = qfleet.train(
            "GridWorld-32", out=out / "run", backend="ray", restarts=2, quiet=False, **settings
        )
    assert len(struck) == 1 and run.summary["restarts"] == 1
    assert run.values.tobytes() == calm.values.tobytes()
    for key in ("steps", "episodes", "rounds", "evaluation"):
        assert run.summary[key] == calm.summary[key], key
    said = told()
    assert "new workers go on from step" in said and "worker" in said and "(restart 1 of 2)" in said
    assert not _workers()


@pytest.mark.parametrize(("name", "number"), [("averaged", signal.SIGKILL), ("partitioned", signal.SIGSTOP)])
def test_a_worker_is_lost(name: str, number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ray_cluster.address()
    _same_bits_though(_signal_one(number), name, tmp_path, lambda: capfd.readouterr().err)


def test_a_node_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cluster = ray_cluster.cluster()
    extra = cluster.add_node(**ray_cluster.NODE)
    remove = partial(cluster.remove_node, extra, allow_graceful=False)
    _same_bits_though(remove, "partitioned", tmp_path, lambda: capfd.readouterr().err)
