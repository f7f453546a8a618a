"""What single services do on every backend: calls, futures, futures as arguments, errors, deadlines."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qfleet.errors import FleetError
from qfleet.fleet import Fleet, Handle
from tests.backends.members import FLEETS
from tests.backends.services import LARGE, SERVICE_BACKENDS, Worker, memory_bytes


@pytest.fixture(scope="module", params=SERVICE_BACKENDS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    fleet = FLEETS[request.param]()
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def trio(fleet: Fleet) -> list[Handle]:
    return [fleet.start(name, Worker) for name in ("the maker", "the doubler", "the reader")]


def test_calls_of_a_handle_run_in_order_whatever_they_wait_for(trio: list[Handle]) -> None:
    maker, _, reader = trio
    slow = maker.call("make", LARGE, 1, 0.3)
    first = reader.call("note", 0, slow)
    others = [reader.call("note", number) for number in range(1, 10)]
    assert [future.result(10) for future in (first, *others)] == [list(range(n + 1)) for n in range(10)]


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_future_stands_for_its_result_along_a_chain_of_services(trio: list[Handle], size: int) -> None:
    maker, doubler, reader = trio
    started = time.monotonic()
    made = maker.call("make", size, 3, 0.5)
    doubled = doubler.call("double", made)
    total = reader.call("total", made, {"array": np.ones(size, np.uint8), "value": 9}, doubled, made)
    assert time.monotonic() - started < 0.4, "the driver has waited"
    expected = [(3 * size, 3), (size, 9), (6 * size, 6), (3 * size, 3)]
    assert total.result(20) == expected
    assert doubled.result(10)["value"] == 6 and (made.result(10)["array"] == 3).all()


def test_places_of_futures_among_arguments(trio: list[Handle]) -> None:
    maker, _, reader = trio
    made, number = maker.call("make", 4, 0), maker.call("process_id")
    found = reader.call("place", made, 1.0, number, "text", made).result(10)
    assert found == ["dict", "float", "int", "str", "dict"]
    assert reader.call("place", number).result(10) == ["int"]


@pytest.mark.parametrize("size", [10, LARGE])
def test_an_answer_tells_its_caller_one_thing_and_gives_others_another(trio: list[Handle], size: int) -> None:
    maker, doubler, reader = trio
    answered = maker.call("answer", size, 3)
    total = reader.call("total", answered, doubler.call("double", answered))
    assert total.result(20) == [(3 * size, 3), (6 * size, 6)]
    assert answered.result(10) == size


@pytest.mark.parametrize("kind", ["value", "not sent"])
def test_who_is_given_a_failure_fails_with_it_and_lives_on(trio: list[Handle], kind: str) -> None:
    maker, doubler, reader = trio
    doubled = doubler.call("double", maker.call("fail", kind))
    end = reader.call("total", doubled)
    with pytest.raises(Exception, match=r"no such block|1 and 2") as caught:
        end.result(10)
    assert type(caught.value).__name__ in ("ValueError", "NotSentError", "FleetError")
    assert any("In the maker" in note for note in caught.value.__notes__)
    assert doubler.call("process_id").result(10) > 0
    assert reader.call("process_id").result(10) > 0


def test_an_error_brings_the_traceback_of_its_service(trio: list[Handle]) -> None:
    with pytest.raises(ValueError, match="no such block") as caught:
        trio[0].call("fail", "value").result(10)
    where = [entry.name for entry in caught.traceback] + caught.value.__notes__
    assert any("fail" in text for text in where)


def test_large_arrays_come_back_as_the_callers_own(trio: list[Handle]) -> None:
    array = np.zeros(LARGE, np.uint8)
    assert trio[0].call("write_to", array).result(10) == 7
    result = trio[0].call("make", LARGE, 5).result(10)["array"]
    result[0] = 1
    assert trio[0].call("make", LARGE, 5).result(10)["array"][0] == 5


def test_when_done_tells_once_for_results_failures_and_what_is_done(trio: list[Handle]) -> None:
    told, done = list[int](), threading.Event()

    def tell() -> None:
        told.append(1)
        done.set()

    for future in (trio[0].call("nap", 0.2), trio[0].call("fail", "value")):
        told.clear()
        done.clear()
        future.when_done(tell)
        assert done.wait(5)
        future.when_done(tell)
        time.sleep(0.3)
        assert len(told) == 2


def test_when_done_comes_after_the_answer_not_before(trio: list[Handle]) -> None:
    done, started = threading.Event(), time.monotonic()
    future = trio[1].call("double", trio[0].call("make", 10, 2, 0.5))
    future.when_done(done.set)
    assert done.wait(10) and time.monotonic() - started >= 0.45
    assert future.result(0.5)["value"] == 4


def test_a_deadline_names_the_service_and_the_method(trio: list[Handle]) -> None:
    napping = trio[2].call("nap", 0.5)
    with pytest.raises(FleetError, match=r"the reader.* has not finished nap within 0\.05 s"):
        napping.result(0.05)
    assert napping.result(10) is None
    waiting = trio[2].call("total", trio[0].call("make", 10, 1, 0.5))
    with pytest.raises(FleetError, match=r"the reader.* has not finished total within 0\.05 s"):
        waiting.result(0.05)
    assert waiting.result(10) == [(10, 1)]


def test_a_service_that_cannot_start_says_why_at_every_call(fleet: Fleet, trio: list[Handle]) -> None:
    def fail() -> Worker:
        raise ValueError("no such thing")

    handle = fleet.start("the broken one", fail)
    for method, given in (("note", 1), ("total", trio[0].call("make", 10, 1))):
        with pytest.raises(ValueError, match="no such thing"):
            handle.call(method, given).result(20)
    with pytest.raises(ValueError, match="no such thing"):
        trio[2].call("total", handle.call("make", 10, 1)).result(10)


def test_memory_does_not_grow_with_calls(fleet: Fleet, trio: list[Handle]) -> None:
    maker, doubler, _ = trio

    def turns(count: int) -> None:
        for _ in range(count):
            futures = [doubler.call("double", maker.call("make", 300_000, 1)) for _ in range(10)]
            assert futures[-1].result(30)["value"] == 2

    def measure() -> list[int]:
        inside = [handle.call("memory_bytes").result(10) for handle in (maker, doubler)]
        return [memory_bytes(), *inside]

    turns(30)
    before, open_before = measure(), len(list(Path("/proc/self/fd").iterdir()))
    turns(100)
    grown = [now - then for now, then in zip(measure(), before, strict=True)]
    # 300 MB went each way: a tenth of it, kept by mistake, would show.
    assert max(grown) < 20e6, grown
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before + 4


@pytest.mark.parametrize("backend", SERVICE_BACKENDS)
def test_closing_does_not_wait_for_who_waits_for_another(backend: str) -> None:
    fleet = FLEETS[backend]()
    maker, reader = fleet.start("the maker", Worker), fleet.start("the reader", Worker)
    waiting = reader.call("total", maker.call("make", 10, 1, 8.0))
    done = threading.Event()
    waiting.when_done(done.set)
    started = time.monotonic()
    fleet.close()
    assert time.monotonic() - started < 6
    if backend != "threads":  # a thread that naps cannot be ended, nor what waits for it be told sooner
        assert done.wait(2)
    with pytest.raises(FleetError, match=r"the maker|the reader"):
        waiting.result(2)
    with pytest.raises(FleetError, match=r"the reader.* has been ended"):
        reader.call("note", 1)
