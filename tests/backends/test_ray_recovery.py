"""Workers and nodes that die or hang: noticed at once, ended, replaced, and what was kept outlives them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from qfleet.backends.kept_values import Kept
from qfleet.backends.ray_fleet import RayFleet
from qfleet.backends.ray_handle import RayHandle
from qfleet.backends.ray_keeper import GONE, Watched
from qfleet.backends.ray_nodes import shares, spread
from qfleet.errors import FleetError
from qfleet.fleet import Group
from tests.backends import ray_cluster
from tests.backends.members import Member
from tests.backends.ray_cluster import processes_named
from tests.clock import seconds

NOTICED_SECONDS, ENDED_SECONDS, STARTED_SECONDS = seconds(2.0, 3.0), seconds(1.2, 2.5), seconds(6.0, 10.0)


def _meet_for_ever(group: Group) -> None:
    while True:
        group.all_reduce(np.zeros(3), "sum")


def _compute(group: Group, seconds: float) -> int:
    """Holds the interpreter's lock nearly all of the time."""
    started, total = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        total += sum(range(1000))
    return group.rank


def _state(group: Group, num_numbers: int) -> dict[str, Any]:
    return {"rank": group.rank, "numbers": np.arange(num_numbers) + group.rank, "text": "états"}


def _read(group: Group, states: list[dict[str, Any]], one: dict[str, Any]) -> list[Any]:
    one["numbers"][0] = -1
    return [(state["rank"], int(state["numbers"][1:].sum()), state["text"]) for state in [*states, one]]


def _fail(group: Group) -> None:
    raise ValueError("no state")


def _loaded(group: Group, names: list[str]) -> list[str]:
    import sys

    return [name for name in names if name in sys.modules]


class Team:
    """A fleet and its only group."""

    def __init__(self, size: int) -> None:
        self.fleet = RayFleet(ray_cluster.address())
        self.handles: list[RayHandle] = []
        self.start(size)

    def start(self, size: int) -> None:
        names = [f"worker {rank}" for rank in range(size)]
        self.handles = self.fleet.start_group(names, [Member] * size, 20.0)

    def run(self, function: Any, *arguments: Any) -> list[Any]:
        futures = [handle.call("run", function, *arguments) for handle in self.handles]
        return [future.result(20) for future in futures]

    def keep(self, function: Any, *arguments: Any) -> list[Kept]:
        kept = [self.fleet.recovery.keep(handle, "run", function, *arguments) for handle in self.handles]
        return [future.result(20) for future in kept]

    def refused_within(self, seconds: float, futures: list[Any]) -> list[str]:
        """What the futures say, none of which may give anything."""
        started, said = time.monotonic(), []
        for future in futures:
            with pytest.raises(FleetError) as caught:
                future.result(30)
            said.append(str(caught.value))
        assert time.monotonic() - started < seconds
        return said

    def end(self) -> float:
        """The seconds that it takes."""
        started = time.monotonic()
        self.fleet.recovery.end(self.handles)
        seconds = time.monotonic() - started
        assert all(Watched(handle.process_id or 0).state() == GONE for handle in self.handles)
        return seconds


@contextmanager
def _team(size: int) -> Iterator[Team]:
    team = Team(size)
    try:
        yield team
    finally:
        team.fleet.close()


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with _team(3) as made:
        yield made


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_who_is_stopped_or_killed_is_noticed_ended_and_replaced(team: Team, number: int) -> None:
    kept = team.keep(_state, 10)
    futures = [handle.call("run", _meet_for_ever) for handle in team.handles]
    time.sleep(0.2)
    process_id = team.handles[1].process_id
    assert process_id is not None
    os.kill(process_id, number)
    said = team.refused_within(NOTICED_SECONDS, futures)
    assert all(f"worker 1 (process {process_id} on " in text and "\n" not in text for text in said)
    if number == signal.SIGSTOP:
        assert all("its process has been stopped (SIGSTOP)" in text for text in said)
    assert team.end() < ENDED_SECONDS
    started = time.monotonic()
    team.start(3)
    assert time.monotonic() - started < STARTED_SECONDS
    expected = [(rank, sum(range(1, 10)) + 9 * rank, "états") for rank in (1, 2, 0)]
    assert team.run(_read, kept[1:], kept[0]) == [expected] * 3


def test_ended_workers_say_so_and_others_can_be_ended_twice(team: Team) -> None:
    handles = team.handles
    pending = handles[0].call("run", _compute, 30.0)
    team.end()
    for call in (lambda: pending.result(5), lambda: handles[1].call("run", _compute, 0.0)):
        with pytest.raises(FleetError, match=r"worker \d \(process \d+ on .*\) has been ended"):
            call()
    team.fleet.recovery.end(handles)
    team.start(3)


def test_what_is_kept_lies_on_two_nodes_and_goes_from_worker_to_worker(team: Team) -> None:
    kept = team.keep(_state, 2_000_000)
    nodes = {node.place: node.node_id for node in team.fleet._nodes.living()}
    for handle, one in zip(team.handles, kept, strict=True):
        assert len({nodes[place] for place in one.places}) == 2
        assert nodes[one.places[0]] == handle.node.node_id
    [found] = team.handles[0].call("run", _read, [], kept[2]).result(20)
    assert found == (2, int((np.arange(2_000_000) + 2)[1:].sum()), "états")


def test_a_keeper_that_lacks_it_is_passed_over(team: Team) -> None:
    [kept, *_] = team.keep(_state, 10)
    elsewhere = Kept(kept.key, (("127.0.0.1", 1), *kept.places[1:]), kept.token)
    assert team.handles[0].call("run", _read, [], elsewhere).result(20) == [(0, 45, "états")]
    strangers = Kept(kept.key, kept.places, b"\0" * len(kept.token))
    with pytest.raises(FleetError, match="no keeper has the value any more"):
        team.handles[0].call("run", _read, [], strangers).result(20)
    team.end()
    team.start(3)


def test_what_is_forgotten_is_freed(team: Team) -> None:
    kept = team.keep(_state, 10)
    team.fleet.recovery.forget(kept[:1])
    time.sleep(0.5)
    assert team.handles[1].call("run", _read, [], kept[1]).result(20)
    with pytest.raises(
        FleetError, match=r"no keeper has the value any more that was kept at .*; their nodes"
    ):
        team.handles[1].call("run", _read, [], kept[0]).result(20)
    team.end()
    team.start(3)


def test_a_method_that_fails_is_told_and_nothing_is_kept(team: Team) -> None:
    future = team.fleet.recovery.keep(team.handles[0], "run", _fail)
    with pytest.raises(ValueError, match="no state"):
        future.result(20)
    team.end()
    team.start(3)


def test_busy_workers_are_not_taken_for_dead() -> None:
    with _team(8) as team:
        assert team.run(_compute, 4.0) == list(range(8))


def test_workers_start_light(team: Team) -> None:
    heavy = ["torch", "gymnasium", "numba", "scipy", "qfleet.cli"]
    assert team.run(_loaded, heavy) == [[]] * 3


def test_a_node_that_is_removed_is_noticed_and_one_that_is_added_is_used() -> None:
    cluster = ray_cluster.cluster()
    extra = cluster.add_node(**ray_cluster.NODE)
    with _team(3) as team:
        room = team.fleet.recovery.room()
        assert room == 3 * ray_cluster.CPUS_A_NODE
        lost = [handle for handle in team.handles if handle.node.node_id == extra.node_id]
        kept = team.keep(_state, 1000)
        futures = [handle.call("run", _meet_for_ever) for handle in team.handles]
        time.sleep(0.2)
        cluster.remove_node(extra, allow_graceful=False)
        said = team.refused_within(NOTICED_SECONDS, futures)
        assert len(lost) == 1 and all(lost[0].name in text for text in said)
        started = time.monotonic()
        assert team.end() < ENDED_SECONDS
        team.start(3)
        assert time.monotonic() - started < STARTED_SECONDS
        assert {handle.node.node_id for handle in team.handles}.isdisjoint({extra.node_id})
        assert [found[0] for found in team.run(_read, kept[:2], kept[2])[0]] == [0, 1, 2]
        assert team.fleet.recovery.room() == room - ray_cluster.CPUS_A_NODE


def test_keepers_end_with_the_fleet() -> None:
    with _team(2) as team:
        places = [node.place for node in team.fleet._nodes.living() if node.place is not None]
    deadline = time.monotonic() + 5
    while any(_listens(place) for place in places) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(places) == 2 and not any(_listens(place) for place in places)


def _listens(place: tuple[str, int]) -> bool:
    import socket

    try:
        socket.create_connection(place, 1.0).close()
    except OSError:
        return False
    return True


def test_threads_of_calls_may_wait_at_the_same_time(team: Team) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(team.run(_compute, 0.1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_workers_are_spread_over_what_is_free() -> None:
    assert spread({"a": 2, "b": 3}, {}, 4) == ["a", "b", "a", "b"]
    assert spread({"a": 0, "b": 3}, {}, 2) == ["b", "b"]
    assert spread({"a": 1, "b": 3}, {}, 4) == ["a", "b", "b", "b"]
    assert spread({"a": 4, "b": 4}, {"a": 2, "b": 1}, 4) == ["b", "a", "b", "a"]
    with pytest.raises(FleetError, match="5 workers take a CPU each, and the cluster has 4; fewer --workers"):
        spread({"a": 1, "b": 3}, {}, 5)


def test_later_workers_share_what_is_left() -> None:
    assert shares({"a": 2, "b": 1}, {}, 3, may_share=False) == (["a", "b", "a"], 1.0)
    assert shares({"a": 2, "b": 1}, {"a": 1, "b": 1}, 3, may_share=True) == (["a", "a", "a"], 1 / 3)
    assert shares({"a": 2, "b": 2}, {"a": 4, "b": 2}, 3, may_share=True) == (["b", "b", "a"], 0.0)
    with pytest.raises(FleetError, match="3 workers take a CPU each, and the cluster has 1"):
        shares({"a": 2, "b": 2}, {"a": 1, "b": 4}, 3, may_share=False)


def test_a_node_that_was_silent_is_used_again_once_it_speaks() -> None:
    """Both keepers are stopped, as on a machine that has stalled: it is waited for, and found, as it was."""
    before = processes_named(b"ray::Keeper")
    with _team(2) as team:
        keepers = [number for number in processes_named(b"ray::Keeper") if number not in before]
        kept = team.keep(_state, 10)
        futures = [handle.call("run", _compute, 20.0) for handle in team.handles]
        for number in keepers:
            os.kill(number, signal.SIGSTOP)
        said = team.refused_within(4.0, futures)
        assert all("does not answer any more" in text for text in said)
        threading.Timer(2.0, lambda: [os.kill(number, signal.SIGCONT) for number in keepers]).start()
        team.fleet.recovery.end(team.handles)
        team.start(2)
        assert team.run(_read, kept[1:], kept[0]) == [[(1, 54, "états"), (0, 45, "états")]] * 2
