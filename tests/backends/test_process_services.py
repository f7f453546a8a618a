"""Services in processes: results, errors and memory that come from another interpreter."""

import functools
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

from qfleet.backends.processes import ProcessFleet
from qfleet.backends.service_pickling import LARGE_BYTES
from qfleet.errors import FleetError, NonFiniteError
from qfleet.fleet import Group


class UnsendableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Service:
    """Holds arrays; with or without a group."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = [array for array in arrays if isinstance(array, np.ndarray)]
        self.seen: list[int] = []

    def note(self, number: int) -> list[int]:
        self.seen.append(number)
        return list(self.seen)

    def raise_error(self, kind: str) -> None:
        raise {
            "finite": NonFiniteError("the value of state 7 is NaN"),
            "division": ZeroDivisionError("no\nluck"),
            "unsendable": UnsendableError(1, 2),
        }[kind]

    def give(self) -> Any:
        return lambda: None, np.arange(200_000), os.getpid()

    def flags(self) -> list[tuple[bool, float]]:
        return [(array.flags.writeable, float(array.sum())) for array in self.arrays]

    def write(self, index: int, value: float) -> None:
        self.arrays[index][...] = value

    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return time.monotonic()

    def process_id(self) -> int:
        return os.getpid()

    def same(self, value: Any) -> Any:
        return value

    def environment(self) -> list[str | None]:
        return [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")]


class GroupService(Service):
    def __init__(self, arrays: list[np.ndarray], group: Group) -> None:
        super().__init__(*arrays)
        self.group = group


@pytest.fixture
def fleet():
    fleet = ProcessFleet()
    yield fleet
    fleet.close()


def test_calls_run_in_order_and_services_run_beside_one_another(fleet: ProcessFleet) -> None:
    one, two = fleet.start("one", Service), fleet.start("two", Service)
    notes = [one.call("note", number) for number in range(20)]
    assert [future.result(10) for future in notes] == [list(range(n + 1)) for n in range(20)]
    started = time.monotonic()
    naps = [handle.call("nap", 0.4) for handle in (one, two)]
    assert all(nap.result(10) - started < 0.75 for nap in naps)
    assert one.call("environment").result(10) == ["1", "1", "1"]


def test_the_next_call_is_there_before_the_one_before_it_is_over(fleet: ProcessFleet) -> None:
    """Whoever hears of the first takes half a second over it; the process has gone on meanwhile."""
    one = fleet.start("one", Service)
    one.call("note", 0).result(60)
    first = one.call("nap", 0.2)
    first.when_done(lambda: time.sleep(0.5))
    assert one.call("nap", 0.0).result(10) - first.result(10) < 0.3


def test_large_calls_and_answers_do_not_wait_for_one_another(fleet: ProcessFleet) -> None:
    """Of bytes alone, more than a connection holds: neither side may write while the other does."""
    one = fleet.start("one", Service)
    values = [[str(number + i) for i in range(100_000)] for number in range(4)]
    futures = [one.call("same", value) for value in values]
    assert [future.result(20) for future in futures] == values


def test_what_was_sent_to_a_process_that_dies_says_so_too(fleet: ProcessFleet) -> None:
    one, two = fleet.start("one", Service), fleet.start("two", Service)
    process_id = one.call("process_id").result(60)
    calls = [one.call("nap", 30), one.call("note", 1), one.call("note", two.call("raise_error", "division"))]
    two.call("note", 0).result(10)
    os.kill(process_id, signal.SIGKILL)
    for future in calls:
        with pytest.raises(
            FleetError, match=rf"one \(process {process_id}\) was killed by SIGKILL while running nap"
        ):
            future.result(10)


def test_a_call_that_was_given_a_failure_waits_for_its_turn_to_say_so(fleet: ProcessFleet) -> None:
    one, two = fleet.start("one", Service), fleet.start("two", Service)
    nap = one.call("nap", 0.3)
    failed = one.call("note", two.call("raise_error", "division"))
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    assert nap.result(0.0) and one.call("note", 3).result(10) == [3]


def test_errors_come_with_type_message_and_traceback_and_the_service_lives_on(fleet: ProcessFleet) -> None:
    handle = fleet.start("the service", Service)
    for kind, expected, said in (
        ("finite", NonFiniteError, "the value of state 7 is NaN"),
        ("division", ZeroDivisionError, "no\nluck"),
        ("unsendable", FleetError, "failed with UnsendableError: 1 and 2"),
    ):
        with pytest.raises(expected, match=said) as caught:
            handle.call("raise_error", kind).result(10)
        assert (
            "in raise_error" in caught.value.__notes__[0]
            and "the service (process" in caught.value.__notes__[0]
        )
    assert handle.call("note", 1).result(10) == [1]
    with pytest.raises(AttributeError, match="no_such"):
        handle.call("no_such").result(10)


def test_results_that_only_exist_here_and_large_ones_come_back(fleet: ProcessFleet) -> None:
    function, numbers, process_id = fleet.start("the service", Service).call("give").result(10)
    assert function() is None and (numbers == np.arange(200_000)).all() and process_id != os.getpid()


def test_a_deadline_names_the_service_its_process_and_the_method(fleet: ProcessFleet) -> None:
    napping = fleet.start("the sleeper", Service).call("nap", 1.0)
    with pytest.raises(FleetError, match=r"the sleeper \(process \d+\) has not finished nap within 0\.05 s"):
        napping.result(0.05)
    assert napping.result(10) > 0


def test_what_cannot_be_sent_is_refused_in_one_line(fleet: ProcessFleet) -> None:
    unsendable = threading.Lock()
    with pytest.raises(FleetError, match="what makes one cannot be sent") as caught:
        fleet.start("one", functools.partial(Service, unsendable))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    with pytest.raises(FleetError, match="arguments of note cannot be sent to two"):
        fleet.start("two", Service).call("note", unsendable)


def test_large_arrays_of_makers_are_shared_once_and_read_only(fleet: ProcessFleet) -> None:
    large = np.arange(4 * LARGE_BYTES // 8, dtype=np.float64).reshape(2, -1)
    makers = [functools.partial(GroupService, [large, large.T, np.ones(3)]) for _ in range(3)]
    starts, frozen = fleet._prepared(["a", "b", "c"], makers, None)
    assert frozen is not None and large.nbytes <= frozen.num_bytes < 2 * large.nbytes
    assert all(len(start.maker) < LARGE_BYTES for start in starts)
    frozen.close_descriptor()
    handles = fleet.start_group(["a", "b", "c"], makers, 10.0)
    for handle in handles:
        expected = [(False, large.sum()), (False, large.sum()), (True, 3.0)]
        assert handle.call("flags").result(10) == expected


def test_shared_arrays_and_their_views_are_one_memory(fleet: ProcessFleet) -> None:
    table = fleet.shared_array((100, 7), np.float64)
    assert not table.any()
    frozen_view = table[50:]
    frozen_view.flags.writeable = False
    makers = [functools.partial(GroupService, [table, table[10:20, ::2], frozen_view])] * 2
    one, two = fleet.start_group(["one", "two"], makers, 10.0)
    one.call("write", 1, 2.5).result(10)
    assert table[10:20, ::2].sum() == table.sum() == 10 * 4 * 2.5
    table[60] = 1.0
    assert two.call("flags").result(10) == [(True, 107.0), (True, 100.0), (False, 7.0)]
    with pytest.raises(ValueError, match="read-only"):
        two.call("write", 2, 1.0).result(10)
    fleet.close()
    assert table.sum() == 107.0


@pytest.mark.parametrize(
    ("shape", "said"), [((1 << 50,), r"needs .* GB of shared memory, .* are free"), ((0,), "")]
)
def test_memory_that_there_is_not_is_refused(fleet: ProcessFleet, shape: tuple[int, ...], said: str) -> None:
    if not said:
        assert fleet.shared_array(shape, np.int8).shape == shape
        return
    with pytest.raises(FleetError, match=said) as caught:
        fleet.shared_array(shape, np.int8)
    assert "\n" not in str(caught.value)


def test_arrays_of_python_objects_cannot_be_shared(fleet: ProcessFleet) -> None:
    with pytest.raises(FleetError, match="holds Python objects"):
        fleet.shared_array((3,), object)
