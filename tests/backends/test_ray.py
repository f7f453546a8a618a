"""Services in Ray actors: who dies is named, what holds arrays sends them once, and tables are those of threads."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.backends.network_mesh import address_of
from qfleet.backends.ray_cluster import check_address
from qfleet.backends.ray_fleet import RayFleet, refuse_other_versions
from qfleet.backends.ray_handle import RayHandle
from qfleet.backends.ray_nodes import pinned_to
from qfleet.backends.ray_service import versions
from qfleet.backends.service_pickling import LARGE_BYTES
from qfleet.errors import FleetError, NonFiniteError, QfleetError
from qfleet.fleet import Group
from tests.backends import ray_cluster
from tests.backends.members import Members
from tests.backends.test_process_services import GroupService, Service
from tests.runs_life.service_runs import soaked


def _process_id(group: Group) -> int:
    return os.getpid()


def _node(group: Group) -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def _meet_for_ever(group: Group) -> None:
    while True:
        group.all_reduce(np.zeros(3), "sum")


def _sleep_or_meet(group: Group, sleeper: int, seconds: float) -> None:
    if group.rank == sleeper:
        time.sleep(seconds)
    group.barrier()


@pytest.fixture
def trio() -> Iterator[Members]:
    group = Members("ray", 3, timeout_seconds=30.0)
    yield group
    numbers = [handle.process_id for handle in group.handles if isinstance(handle, RayHandle)]
    started = time.monotonic()
    group.fleet.close()
    assert time.monotonic() - started < 2.5
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{number}").exists() for number in numbers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{number}").exists() for number in numbers)


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_a_killed_actor_is_named_by_all_within_two_seconds(trio: Members, is_waited_for: bool) -> None:
    """The others are in the group's rounds, or one of them computes while another waits for it."""
    process_ids = trio.run(_process_id)
    call = (_meet_for_ever,) if is_waited_for else (_sleep_or_meet, 2, 3.0)
    futures = [handle.call("run", *call) for handle in trio.handles]
    time.sleep(0.3)
    os.kill(process_ids[1], signal.SIGKILL)
    started = time.monotonic()
    named = rf"worker 1 \(process {process_ids[1]} on .*\) ((died|was lost) before it had finished run: .+|is gone)"
    for rank in (0, 1):
        with pytest.raises(FleetError, match=named) as caught:
            futures[rank].result(10)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 2
    with pytest.raises(FleetError, match=named):
        futures[2].result(10)


def test_a_kill_between_calls_is_told_by_the_next_calls(trio: Members) -> None:
    os.kill(trio.run(_process_id)[1], signal.SIGKILL)
    started = time.monotonic()
    futures = [handle.call("run", _meet_for_ever) for handle in trio.handles]
    for future in futures:
        with pytest.raises(
            FleetError, match=r"worker 1 \(process \d+ on .*\) ((died|was lost) before|is gone)"
        ):
            future.result(10)
    assert time.monotonic() - started < 2
    with pytest.raises(FleetError, match=r"worker 1 .* (died|was lost) before it had finished run"):
        trio.handles[1].call("run", _process_id).result(10)


@pytest.fixture
def fleet() -> Iterator[RayFleet]:
    fleet = RayFleet(ray_cluster.address())
    yield fleet
    fleet.close()


def test_calls_run_in_order_beside_one_another_on_one_thread_each(fleet: RayFleet) -> None:
    one, two = fleet.start("one", Service), fleet.start("two", Service)
    notes = [one.call("note", number) for number in range(20)]
    assert [future.result(10) for future in notes] == [list(range(n + 1)) for n in range(20)]
    naps = [handle.call("nap", 0.5) for handle in (one, two)]
    left = [nap.result(10) for nap in naps]
    assert abs(left[0] - left[1]) < 0.45
    assert one.call("environment").result(10) == ["1", "1", "1"]


def test_errors_come_with_type_message_and_traceback_and_the_service_lives_on(fleet: RayFleet) -> None:
    handle = fleet.start("the service", Service)
    for kind, expected, said in (
        ("finite", NonFiniteError, "the value of state 7 is NaN"),
        ("division", ZeroDivisionError, "no\nluck"),
        ("unsendable", FleetError, "failed with UnsendableError: 1 and 2"),
    ):
        with pytest.raises(expected, match=said) as caught:
            handle.call("raise_error", kind).result(10)
        note = caught.value.__notes__[0]
        assert "in raise_error" in note and "the service (process" in note
    assert handle.call("note", 1).result(10) == [1]


def test_a_deadline_and_what_cannot_be_sent_are_told_in_one_line(fleet: RayFleet) -> None:
    handle = fleet.start("the sleeper", Service)
    with pytest.raises(
        FleetError, match=r"the sleeper \(process \d+ on .*\) has not finished nap within 0\.05 s"
    ):
        handle.call("nap", 0.5).result(0.05)
    with pytest.raises(FleetError, match="arguments of note cannot be sent to the sleeper"):
        handle.call("note", threading.Lock())
    with pytest.raises(FleetError, match="what makes one cannot be sent") as caught:
        fleet.start("one", partial(Service, threading.Lock()))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_large_arrays_of_makers_are_sent_once_and_read_only(fleet: RayFleet) -> None:
    large = np.arange(4 * LARGE_BYTES // 8, dtype=np.float64).reshape(2, -1)
    makers = [partial(GroupService, [large, large.T, np.ones(3)]) for _ in range(2)]
    dumped = fleet._dumped(["a", "b"], makers)
    assert all(len(maker) < LARGE_BYTES for maker, _ in dumped)
    assert len({reference for _, references in dumped for reference in references}) == 1
    for handle in fleet.start_group(["a", "b"], makers, 10.0):
        expected = [(False, large.sum()), (False, large.sum()), (True, 3.0)]
        assert handle.call("flags").result(10) == expected


def test_workers_are_spread_over_the_nodes_and_share_no_memory(fleet: RayFleet) -> None:
    group = Members("ray", 4)
    assert len(set(group.run(_node))) == 2
    group.fleet.close()
    with pytest.raises(FleetError, match="no memory that all workers share"):
        fleet.shared_array((3,), "f8")


def test_services_that_are_started_one_by_one_are_spread_too(fleet: RayFleet) -> None:
    handles = [fleet.start(f"worker {number}", Service) for number in range(4)]
    assert sorted(Counter(handle.node.node_id for handle in handles).values()) == [2, 2]


def _take_all_cpus() -> list[Any]:
    """Actors of another job, in effect: one on each node, with all the CPUs that are left there."""
    import ray
    from ray._private import state

    left = {node_id: int(one.get("CPU", 0)) for node_id, one in state.available_resources_per_node().items()}
    return [
        ray.remote(num_cpus=number, scheduling_strategy=pinned_to(ray, node_id))(Service).remote()
        for node_id, number in left.items()
    ]


def test_a_node_that_others_have_taken_is_told(fleet: RayFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    fleet.start("one", Service)
    others = _take_all_cpus()
    try:
        ray.get([other.note.remote(1) for other in others], timeout=60)
        monkeypatch.setattr("qfleet.backends.ray_fleet._START_SECONDS", 3.0)
        with pytest.raises(
            FleetError, match=r"two has not finished its start within .* CPUs of its node are"
        ):
            fleet.start("two", Service)
    finally:
        for other in others:
            ray.kill(other)


def test_more_workers_than_cpus_are_refused(fleet: RayFleet) -> None:
    most = 2 * ray_cluster.CPUS_A_NODE
    names = [f"worker {rank}" for rank in range(most + 1)]
    with pytest.raises(FleetError, match=f"{most + 1} workers take a CPU each, and the cluster has {most}"):
        fleet.start_group(names, [partial(GroupService, [])] * len(names), 5.0)


@pytest.mark.parametrize("interface", ["lo", "nosuch0"])
def test_groups_speak_on_the_interface_that_is_named(interface: str) -> None:
    fleet = RayFleet(ray_cluster.address(), interface)
    try:
        if interface == "lo":
            assert address_of("lo") == "127.0.0.1"
            fleet.start_group(["one", "two"], [partial(GroupService, [])] * 2, 5.0)
        else:
            with pytest.raises(FleetError, match=r"--interface nosuch0: .* has lo"):
                fleet.start_group(["one", "two"], [partial(GroupService, [])] * 2, 5.0)
    finally:
        fleet.close()


def test_other_versions_on_a_node_are_one_line() -> None:
    refuse_other_versions("worker 1", versions(), versions())
    other = versions() | {"numba": "0.1"}
    with pytest.raises(
        FleetError, match=r"worker 1 has numba 0\.1, and this process \d.*; the same versions"
    ):
        refuse_other_versions("worker 1", other, versions())


@pytest.mark.parametrize("address", ["nowhere", "10.0.0.1", "host:port", "ray://10.0.0.1:10001", "host:0"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(QfleetError, match=f"--address {address}: it takes HOST:PORT"):
        check_address(address)


def test_auto_is_the_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address())
    assert check_address("auto") == ray_cluster.address()


RUN: dict[str, Any] = {
    "algorithm": "q-learning",
    "steps": 60_013,
    "sync_every_steps": 977,
    "walkers": 24,
    "final_episodes": 5,
    "until_return": float("inf"),
    "max_evaluation_steps": 100,
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "equal": {"topology": "averaged"},
    "delta": {"topology": "averaged", "merge": "delta"},
    "visits": {"topology": "averaged", "merge": "visits", "initial_value": 0.5},
    "partitioned": {"topology": "partitioned"},
    "shards": {"topology": "partitioned", "keep_shards": True},
}


def _trained(out: Path, backend: str, world: str = "GridWorld-16", **settings: Any) -> qfleet.Run:
    return qfleet.train(world, out=out / backend, backend=backend, **(RUN | settings))


@pytest.mark.parametrize(
    ("name", "workers", "world"),
    soaked(
        [(name, 3, "GridWorld-16") for name in TOPOLOGIES],
        [(name, workers, "GridWorld-16") for name in ("equal", "partitioned") for workers in (1, 2, 3, 4)]
        + [(name, workers, "Garnet-60") for name in ("equal", "partitioned") for workers in (2, 3, 4)]
        + [(name, 3, "GridWorld-16") for name in ("delta", "visits", "shards")],
    ),
)
def test_a_run_is_that_of_threads_bit_for_bit(name: str, workers: int, world: str, tmp_path: Path) -> None:
    ray_cluster.address()
    settings: dict[str, Any] = TOPOLOGIES[name] | {"workers": workers}
    threads, ray = (_trained(tmp_path, backend, world, **settings) for backend in ("threads", "ray"))
    if name == "shards":
        shards = [run.values_state["shards"] for run in (threads, ray)]
        for one, other in zip(shards[0].values(), shards[1].values(), strict=True):
            assert one.shape == other.shape and one.tobytes() == other.tobytes()
        assert len(shards[1]) == workers
    else:
        assert ray.values.tobytes() == threads.values.tobytes() and (ray.values != 0).sum() > 200
    for key in ("steps", "episodes", "max_error", "evaluation", "rounds"):
        assert ray.summary[key] == threads.summary[key], key


@pytest.mark.parametrize("name", ["equal", "delta", "shards"])
def test_a_stopped_run_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    ray_cluster.address()
    settings: dict[str, Any] = TOPOLOGIES[name] | {"workers": 2, "checkpoint_every_steps": 20_000}
    whole = _trained(tmp_path, "threads", **settings)
    stopped = qfleet.train(
        "GridWorld-16",
        out=tmp_path / "stopped",
        backend="ray",
        on_status=lambda status: status.steps < 30_000,
        **(RUN | settings),
    )
    assert stopped.summary["stopped_by"] == "callback" and stopped.summary["steps"] < 60_013
    resumed = qfleet.resume(tmp_path / "stopped")
    assert resumed.summary["steps"] == 60_013
    states = [run.values_state for run in (whole, resumed)]
    tables = [[state["values"]] if "values" in state else [*state["shards"].values()] for state in states]
    assert all(one.tobytes() == other.tobytes() for one, other in zip(*tables, strict=True))
