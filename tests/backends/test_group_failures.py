"""A member that raises, hangs, or makes other calls: the others say who, within the deadline, and never hang."""

import time

import numpy as np
import pytest

from qfleet.errors import FleetError, NonFiniteError
from qfleet.fleet import Group
from tests.backends.members import Members
from tests.clock import seconds


@pytest.fixture
def trio(backend: str):
    group = Members(backend, 3, timeout_seconds=1.0)
    yield group
    group.fleet.close()


def _raise_on_one(group: Group) -> None:
    group.barrier()
    if group.rank == 1:
        raise NonFiniteError("the value of state 7\nis NaN")
    group.barrier()


def test_who_raised_is_named_to_those_who_wait(trio: Members) -> None:
    started = time.monotonic()
    futures = [handle.call("run", _raise_on_one) for handle in trio.handles]
    for rank in (0, 2):
        with pytest.raises(
            FleetError, match=r"worker 1 .*failed with NonFiniteError: the value of state 7 is NaN"
        ):
            futures[rank].result(10)
    with pytest.raises(NonFiniteError, match="the value of state 7"):
        futures[1].result(10)
    assert time.monotonic() - started < seconds(0.9, 3)


def _sleep_on_one(group: Group, seconds: float) -> None:
    group.barrier()
    if group.rank == 1:
        time.sleep(seconds)
    group.exchange([np.zeros(1)] * 3)


def test_who_hangs_is_named_at_the_deadline_and_the_group_stays_broken(trio: Members) -> None:
    started = time.monotonic()
    futures = [handle.call("run", _sleep_on_one, 5.0) for handle in trio.handles]
    said = r"worker 1 .*has not come to round 2 of its group within 1 s"
    for rank in (0, 2):
        with pytest.raises(FleetError, match=said) as caught:
            futures[rank].result(10)
        assert "\n" not in str(caught.value)
    assert 0.9 < time.monotonic() - started < seconds(1.9, 4)
    with pytest.raises(FleetError, match=said):
        trio.handles[0].call("run", _only_barrier).result(10)


def _only_barrier(group: Group) -> None:
    group.barrier()


def _differing_calls(group: Group) -> None:
    if group.rank == 1:
        group.barrier()
    else:
        group.exchange([np.zeros(1)] * 3)


def test_different_calls_of_one_round_are_an_error(trio: Members) -> None:
    futures = [handle.call("run", _differing_calls) for handle in trio.handles]
    for rank in (0, 2):
        with pytest.raises(FleetError, match="make the same calls"):
            futures[rank].result(10)


def _differing_shapes(group: Group, num_numbers: int) -> None:
    group.all_reduce(np.zeros(num_numbers + group.rank), "sum")


@pytest.mark.parametrize("num_numbers", [4, 4000])
def test_all_reduce_of_different_shapes_names_the_rank(trio: Members, num_numbers: int) -> None:
    futures = [handle.call("run", _differing_shapes, num_numbers) for handle in trio.handles]
    with pytest.raises(FleetError, match=r"rank [12] handed in"):
        futures[0].result(10)


class Unmakeable:
    def __init__(self, group: Group) -> None:
        if group.rank == 1:
            raise ValueError("no such world")

    def meet(self) -> None:
        pass


def test_a_member_that_cannot_be_made_says_so_at_every_call(backend: str) -> None:
    group = Members(backend, 1)
    handles = group.fleet.start_group(["worker 0", "worker 1"], [Unmakeable] * 2, 5.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such world"):
            handles[1].call("meet").result(10)
    handles[0].call("meet").result(10)
    group.fleet.close()


def _wait_alone(group: Group) -> None:
    if group.rank == 0:
        group.barrier()


def test_close_frees_who_waits_for_the_group_and_may_come_twice(backend: str) -> None:
    group = Members(backend, 2, timeout_seconds=60)
    waiting = group.handles[0].call("run", _wait_alone)
    group.handles[1].call("run", _wait_alone).result(10)
    started = time.monotonic()
    group.fleet.close()
    group.fleet.close()
    assert time.monotonic() - started < 3.5
    with pytest.raises(FleetError, match=r"worker 0"):
        waiting.result(1)
