"""Workers that are killed or stopped are replaced, and the run ends with the bits of one that lost nobody."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import qfleet
from qfleet.errors import FleetError, QfleetError
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.restarts import Restarts
from tests.backends.members import FLEETS
from tests.child_processes import children, newest
from tests.tables import table_bytes
from tests.topologies.table_teams import task_of, world_named

RUN: dict[str, Any] = {
    "algorithm": "q-learning",
    "workers": 2,
    "backend": "processes",
    "steps": 120_000_000,
    "final_episodes": 5,
    "evaluation_episodes": 5,
    "until_return": float("inf"),
    "exact": "no",
    "stall_timeout_seconds": 3.0,
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "averaged": {"topology": "averaged", "learning_rate_schedule": "visits"},
    "partitioned": {"topology": "partitioned"},
    "shards": {"topology": "partitioned", "keep_shards": True, "learning_rate_schedule": "visits"},
}


def _workers() -> list[int]:
    return sorted(children("process_child"))


@contextmanager
def _losing(times: int, how: signal.Signals, chance: random.Random) -> Iterator[list[int]]:
    """While entered, workers get a signal at random moments; a list of whom it was sent to."""
    hit: list[int] = []
    over, others = threading.Event(), _workers()

    def strike() -> None:
        while len(hit) < times and not over.wait(chance.uniform(0.2, 1.2)):
            if living := [number for number in _workers() if number not in hit + others]:
                hit.append(chance.choice(living))
                os.kill(hit[-1], how)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "name", ["partitioned", *(pytest.param(name, marks=pytest.mark.soak) for name in ("averaged", "shards"))]
)
def test_killed_workers_are_replaced_and_the_bits_are_those_of_a_run_without_faults(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = RUN | TOPOLOGIES[name]
    calm = qfleet.train("GridWorld-32", out=tmp_path / "calm", **settings)
    with _losing(3, signal.SIGKILL, random.Random(name)) as hit:
        run = qfleet.train("GridWorld-32", out=tmp_path / "run", restarts=6, quiet=False, **settings)
    assert 1 <= run.summary["restarts"] <= len(hit) and "restarts" not in calm.summary
    assert table_bytes(run) == table_bytes(calm)
    for key in ("steps", "episodes", "rounds", "evaluation"):
        assert run.summary[key] == calm.summary[key], key
    told = capfd.readouterr().err
    assert (
        "was killed by SIGKILL" in told
        and "new workers go on from step" in told
        and "(restart 1 of 6)" in told
    )


def test_who_is_lost_again_and_again_still_comes_further() -> None:
    """On the way back to where they were workers are seen to: what is caught up is never to be done again."""
    task = task_of(world_named("GridWorld-16"), "q-learning", 10**9, 2)
    fleet = FLEETS["processes"]()
    try:
        team = Averaged(fleet, task, AveragedConfig(sync_every_steps=5000), Restarts(9))
        team.prepare()
        for _ in range(20):
            team.advance(team.num_steps + 1)
        assert team._snapshot is not None and team._snapshot.num_steps == 0
        os.kill(newest(_workers()), signal.SIGKILL)
        team.advance(team.num_steps + 1)
        assert team._snapshot.num_steps == 2 * 5000, "after the first call that was made again"
    finally:
        fleet.close()


def test_a_stopped_worker_is_replaced(tmp_path: Path) -> None:
    settings = RUN | TOPOLOGIES["partitioned"]
    calm = qfleet.train("GridWorld-32", out=tmp_path / "calm", **settings)
    with _losing(1, signal.SIGSTOP, random.Random(5)) as hit:
        run = qfleet.train("GridWorld-32", out=tmp_path / "run", restarts=1, **settings)
    assert run.summary["restarts"] == 1 and len(hit) == 1 and not Path(f"/proc/{hit[0]}").exists()
    assert table_bytes(run) == table_bytes(calm)


def test_a_spent_budget_ends_the_run_naming_who_was_lost(tmp_path: Path) -> None:
    started, before = time.monotonic(), _workers()
    with _losing(9, signal.SIGKILL, random.Random(1)), pytest.raises(FleetError) as caught:
        settings: dict[str, Any] = RUN | TOPOLOGIES["averaged"] | {"steps": 10**10, "restarts": 1}
        qfleet.train("GridWorld-32", out=tmp_path / "run", **settings)
    said = str(caught.value)
    assert "worker" in said and "SIGKILL" in said and "all 1 restarts are spent (--restarts)" in said
    assert "\n" not in said and time.monotonic() - started < 60
    assert set(_workers()) <= set(before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": "threads", "restarts": 2}, "a thread that hangs cannot be ended"),
        ({"backend": "mpi", "restarts": 2}, "a rank that dies ends its job"),
        ({"restarts": -1}, "restarts is -1"),
        ({"max_workers": 4}, "--max-workers is for --backend ray"),
        ({"backend": "ray", "max_workers": 1}, "--max-workers 1 is less than --workers 2"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        qfleet.train("GridWorld-8", out=tmp_path / "run", **(RUN | TOPOLOGIES["averaged"] | settings))
    assert not (tmp_path / "run").exists()
