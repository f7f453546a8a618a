"""Worlds and workers that go wrong, and machines too small: one line that names it, in time, and nothing left over."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.errors import FleetError, NonFiniteError, QfleetError
from qfleet.worlds.world import World
from tests.child_processes import by_age, children
from tests.runs_life import faulty_worlds
from tests.runs_life.faulty_worlds import RAISED, RESET, REWARD, STATE, faulty

BACKENDS = ["threads", "processes"]
PARTITIONED: dict[str, Any] = {
    "algorithm": "q-learning",
    "topology": "partitioned",
    "workers": 2,
    "steps": 10**9,
    "walkers": 16,
    "sync_every_steps": 2000,
    "max_evaluation_steps": 10,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        (
            STATE,
            QfleetError,
            r"Pump: step \d+ of walker \d+, action 1 in state 6, led to the state 99; .* 0 to 7",
        ),
        (REWARD, NonFiniteError, r"Pump: step \d+ of walker \d+, action 1 in state 6, gave the reward nan"),
        (RAISED, ValueError, "the pump is dry"),
        (RESET, QfleetError, r"Pump: reset gave the state 8; states are 0 to 7"),
    ],
)
def test_a_world_that_goes_wrong_in_worker_1_is_what_is_said(
    kind, error, said, backend, tmp_path: Path
) -> None:
    """Worker 0, which owns states 0 to 3, only learns that its group is broken: that is not what is told."""
    before = children(), threading.active_count()
    started = time.monotonic()
    with pytest.raises(error, match=said) as raised:
        qfleet.train(faulty(kind, 1e-4), out=tmp_path / "run", backend=backend, **PARTITIONED)
    assert not isinstance(raised.value, FleetError) and "\n" not in str(raised.value)
    assert time.monotonic() - started < 40
    assert children() <= before[0] and threading.active_count() <= before[1]


def test_what_goes_wrong_at_once_is_said_before_workers_start(tmp_path: Path) -> None:
    with pytest.raises(
        QfleetError, match=r"Pump: step returned .* from state 6 with action 1; next_state is 99"
    ):
        qfleet.train(faulty(STATE), out=tmp_path / "run", **PARTITIONED)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("topology", ["shared", "averaged"])
def test_whichever_worker_meets_it(topology: str, tmp_path: Path) -> None:
    settings = PARTITIONED | {"topology": topology, "sync_every_steps": 10**6}
    if topology == "shared":
        del settings["sync_every_steps"]
    with pytest.raises(NonFiniteError, match="action 1 in state 6, gave the reward nan"):
        qfleet.train(faulty(REWARD, 1e-6), out=tmp_path / "run", **settings)


def do_to_worker_1(number: int, done: list[float]) -> Callable[[qfleet.Status], None]:
    """Sends a signal to the younger of the two processes, once."""
    before = children()

    def on_status(status: qfleet.Status) -> None:
        workers = by_age(children() - before)
        if not done and status.steps > 100_000:
            assert len(workers) == 2
            os.kill(workers[1], number)
            done.extend([time.monotonic(), workers[1]])

    return on_status


def test_a_worker_that_is_killed_is_named_in_time(tmp_path: Path) -> None:
    before, done = children(), []
    with pytest.raises(FleetError) as raised:
        qfleet.train(
            faulty_worlds.endless(),
            out=tmp_path / "run",
            on_status=do_to_worker_1(signal.SIGKILL, done),
            backend="processes",
            **PARTITIONED,
        )
    assert time.monotonic() - done[0] < 2 + 1  # a second to end the other one
    said = str(raised.value)
    assert f"worker 1 (process {done[1]}" in said and "SIGKILL" in said and "\n" not in said
    assert children() <= before


def test_a_worker_that_is_stopped_is_named(tmp_path: Path) -> None:
    before, done = children(), []
    with pytest.raises(FleetError) as raised:
        qfleet.train(
            faulty_worlds.endless(),
            out=tmp_path / "run",
            on_status=do_to_worker_1(signal.SIGSTOP, done),
            backend="processes",
            **PARTITIONED,
        )
    assert time.monotonic() - done[0] < 2 + 2 + 2  # a turn before, and the time to end both
    said = str(raised.value)
    assert f"worker 1 (process {done[1]}) was stopped while running advance" in said and "\n" not in said
    assert children() <= before


def slow_step(parameters, state, action, random):
    """Some ten microseconds."""
    total = 0.0
    for i in range(parameters[0]):
        total += np.sin(total + random + i)
    return np.int64(random * 4), total * 1e-9, False


def first_state(parameters, random):
    return np.int64(0)


def test_slow_is_not_silent(tmp_path: Path) -> None:
    """A turn of this run takes longer than a worker may be silent; and one may stop it within a second or so."""
    slow = World(slow_step, first_state, 4, 2, (2000,), "Slow", max_episode_steps=10)
    asked: list[float] = []

    def on_status(status: qfleet.Status) -> bool | None:
        if status.seconds > 4 and not asked:
            asked.append(time.monotonic())
        return False if asked else None

    run = qfleet.train(
        slow,
        out=tmp_path / "run",
        on_status=on_status,
        algorithm="q-learning",
        steps=200 * 2**21,
        stall_timeout_seconds=2.5,
        final_episodes=1,
        max_evaluation_steps=5,
        walkers=16,
    )
    assert run.summary["stopped_by"] == "callback" and run.summary["steps"] < 2**21
    assert run.summary["seconds"] < 8


HUGE = [
    ("GridWorld-100000", {}),
    ("grid of 10^11 states", {}),
    ("grid of 10^11 states", {"topology": "partitioned", "workers": 2}),
    ("grid of 10^11 states", {"topology": "shared", "workers": 2, "learning_rate_schedule": "visits"}),
]


@pytest.mark.parametrize(("name", "settings"), HUGE)
def test_what_memory_cannot_hold_is_refused_before_it_is_taken(name, settings, tmp_path: Path) -> None:
    world = World(slow_step, first_state, 10**11, 4, (1,), "Huge") if "10^11" in name else name
    started = time.monotonic()
    with pytest.raises(
        QfleetError, match=r"\d GB.* are available|states; at most .* can be numbered"
    ) as raised:
        qfleet.train(world, out=tmp_path / "run", algorithm="q-learning", **settings)
    assert time.monotonic() - started < 2 and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_copies_are_counted_before_they_are_made(tmp_path: Path) -> None:
    """A table that fits, four of which do not."""
    from qfleet.memory import available_memory_bytes

    states = available_memory_bytes() // (4 * 8 * 2)
    world = World(slow_step, first_state, states, 4, (1,), "Large")
    with pytest.raises(QfleetError, match=r"4 tables of .* states and 4 actions take .* are available"):
        qfleet.train(world, out=tmp_path / "run", topology="averaged", workers=4)
    assert not (tmp_path / "run").exists()
