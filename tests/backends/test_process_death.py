"""Processes that are killed, stopped or orphaned: who it was is said within two seconds, and nothing is left."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from qfleet.errors import FleetError
from qfleet.fleet import Group, Handle
from tests.backends.members import Members
from tests.segments import segments


def _process_id(group: Group) -> int:
    return os.getpid()


def _meet_for_ever(group: Group) -> None:
    while True:
        group.all_reduce(np.zeros(3), "sum")


def _sleep_or_meet(group: Group, sleeper: int) -> None:
    if group.rank == sleeper:
        time.sleep(60)
    group.barrier()


def _end(group: Group, code: int) -> None:
    if group.rank == 1:
        os._exit(code)
    group.barrier()


class Trio(NamedTuple):
    handles: Sequence[Handle]
    process_ids: list[int]
    members: Members


@pytest.fixture
def trio() -> Iterator[Trio]:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    before = segments()
    group = Members("processes", 3, timeout_seconds=30.0)
    process_ids = group.run(_process_id)
    yield Trio(group.handles, process_ids, group)
    started = time.monotonic()
    group.fleet.close()
    assert time.monotonic() - started < 2.5
    assert not any(Path(f"/proc/{number}").exists() for number in process_ids)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    assert segments() <= before


@pytest.mark.parametrize("function", [_meet_for_ever, _sleep_or_meet])
def test_a_kill_inside_a_call_is_the_cause_that_every_future_tells(
    trio: Trio, function: Callable[..., Any]
) -> None:
    arguments = (1,) if function is _sleep_or_meet else ()
    futures = [handle.call("run", function, *arguments) for handle in trio.handles]
    time.sleep(0.3)
    os.kill(trio.process_ids[1], signal.SIGKILL)
    started = time.monotonic()
    for future in futures:
        with pytest.raises(FleetError) as caught:
            future.result(10)
        said = f"worker 1 (process {trio.process_ids[1]}) was killed by SIGKILL while running run"
        assert str(caught.value) == said
    assert time.monotonic() - started < 2


def test_a_kill_between_calls_is_told_by_the_next_calls(trio: Trio) -> None:
    os.kill(trio.process_ids[0], signal.SIGKILL)
    started = time.monotonic()
    futures = [handle.call("run", _meet_for_ever) for handle in trio.handles]
    for future in futures[::-1]:
        with pytest.raises(FleetError, match=r"worker 0 \(process \d+\) was killed by SIGKILL while"):
            future.result(10)
    assert time.monotonic() - started < 2
    with pytest.raises(FleetError, match="worker 0"):
        trio.handles[0].call("run", _process_id).result(10)
    assert trio.handles[2].call("run", _process_id).result(10) == trio.process_ids[2]


def test_an_exit_code_is_told(trio: Trio) -> None:
    futures = [handle.call("run", _end, 3) for handle in trio.handles]
    for future in futures:
        with pytest.raises(FleetError, match=r"worker 1 .* ended with exit code 3 while running run"):
            future.result(10)


def test_many_kills_at_any_time_never_hang() -> None:
    generator = np.random.default_rng(1)
    for _ in range(4):
        group = Members("processes", 2, timeout_seconds=30.0)
        process_ids = group.run(_process_id)
        futures = [handle.call("run", _meet_for_ever) for handle in group.handles]
        time.sleep(generator.uniform(0, 0.1))
        os.kill(process_ids[1], signal.SIGKILL)
        started = time.monotonic()
        for future in futures:
            with pytest.raises(FleetError, match=r"worker 1 .* SIGKILL"):
                future.result(10)
        assert time.monotonic() - started < 2
        group.fleet.close()


def test_a_stopped_process_is_named_at_the_deadlines_and_ended() -> None:
    group = Members("processes", 2, timeout_seconds=0.5)
    process_ids = group.run(_process_id)
    futures = [handle.call("run", _meet_for_ever) for handle in group.handles]
    time.sleep(0.2)
    os.kill(process_ids[1], signal.SIGSTOP)
    with pytest.raises(
        FleetError, match=rf"worker 1 \(process {process_ids[1]}\) has not come .* it is stopped"
    ):
        futures[0].result(5)
    with pytest.raises(FleetError, match=r"worker 1 .* has not finished run within 0\.1 s; it is stopped"):
        futures[1].result(0.1)
    started = time.monotonic()
    group.fleet.close()
    assert time.monotonic() - started < 2.5 and not Path(f"/proc/{process_ids[1]}").exists()


def test_a_process_that_stays_stopped_is_named_within_two_seconds_and_ended(trio: Trio) -> None:
    futures = [handle.call("run", _meet_for_ever) for handle in trio.handles]
    time.sleep(0.2)
    os.kill(trio.process_ids[1], signal.SIGSTOP)
    started = time.monotonic()
    for future in futures:
        with pytest.raises(FleetError, match=r"worker 1 \(process \d+\) was stopped while running run"):
            future.result(5)
    assert time.monotonic() - started < 2


def test_ctrl_c_does_not_reach_the_service(trio: Trio) -> None:
    for number in trio.process_ids:
        os.kill(number, signal.SIGINT)
    time.sleep(0.1)
    assert trio.members.run(_process_id) == trio.process_ids


ORPHANS = """
import os
from tests.backends.members import Members
from tests.backends.test_process_death import _process_id, _sleep_or_meet
group = Members("processes", 2)
group.fleet.shared_array((1000,), "f8")
print(*group.run(_process_id), flush=True)
if {is_busy}:
    futures = [handle.call("run", _sleep_or_meet, 1) for handle in group.handles]
os.read(0, 1)
"""


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_killed_parent_leaves_no_process_and_no_segment(is_busy: bool) -> None:
    """The parent is a script without a main guard."""
    before = segments()
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS.format(is_busy=is_busy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
    )
    assert parent.stdout is not None and parent.stdin is not None
    children = [Path(f"/proc/{int(number)}") for number in parent.stdout.readline().split()]
    assert len(children) == 2 and all(child.exists() for child in children)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while any(child.exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.exists() for child in children)
    assert segments() <= before
    parent.stdout.close()
    parent.stdin.close()
