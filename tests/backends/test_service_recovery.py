"""Single services that are killed or stopped: told within two seconds to whoever waits, and replaced."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from qfleet.errors import FleetError
from qfleet.fleet import Fleet, Future
from tests.backends.members import FLEETS
from tests.backends.services import LARGE, Worker

NOTICED_SECONDS = 3.0
"""Two on a machine that has nothing else to do; here other tests run beside this one."""


@pytest.fixture(scope="module", params=["processes", "ray"])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    fleet = FLEETS[request.param]()
    yield fleet
    fleet.close()


def _told(future: Future) -> threading.Event:
    done = threading.Event()
    future.when_done(done.set)
    return done


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_producer_is_told_to_all_who_wait_and_is_replaced(fleet: Fleet, number: int) -> None:
    maker, reader = fleet.start("the maker", Worker), fleet.start("the reader", Worker)
    process_id = maker.call("process_id").result(20)
    assert reader.call("process_id").result(20) != process_id
    made = maker.call("make", LARGE, 1, 60.0)
    total = reader.call("total", made)
    told = [_told(made), _told(total)]
    time.sleep(0.3)
    assert not any(event.is_set() for event in told)
    started = time.monotonic()
    os.kill(process_id, number)
    for event, future in zip(told, (made, total), strict=True):
        assert event.wait(NOTICED_SECONDS)
        with pytest.raises(FleetError, match=rf"the maker \(process {process_id}\b.* make\b") as caught:
            future.result(5)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < NOTICED_SECONDS
    assert fleet.recovery is not None
    fleet.recovery.end([maker])
    maker = fleet.start("the maker", Worker)
    assert reader.call("total", maker.call("make", LARGE, 2)).result(20) == [(2 * LARGE, 2)]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_consumer_is_told_and_replaced_and_the_producer_lives_on(fleet: Fleet, number: int) -> None:
    maker, reader = fleet.start("the maker", Worker), fleet.start("the reader", Worker)
    process_id = reader.call("process_id").result(20)
    napping = reader.call("nap", 60.0)
    total = reader.call("total", maker.call("make", LARGE, 3))
    told = [_told(napping), _told(total)]
    time.sleep(0.3)
    os.kill(process_id, number)
    for event, future in zip(told, (napping, total), strict=True):
        assert event.wait(NOTICED_SECONDS)
        with pytest.raises(FleetError, match=rf"the reader \(process {process_id}\b"):
            future.result(5)
    assert fleet.recovery is not None
    fleet.recovery.end([reader])
    reader = fleet.start("the reader", Worker)
    made = maker.call("make", LARGE, 4)
    assert reader.call("total", made).result(20) == [(4 * LARGE, 4)]


def test_a_producer_lost_between_calls_is_told_by_the_next(fleet: Fleet) -> None:
    maker, reader = fleet.start("the maker", Worker), fleet.start("the reader", Worker)
    os.kill(maker.call("process_id").result(20), signal.SIGKILL)
    time.sleep(0.5)
    total = reader.call("total", maker.call("make", LARGE, 1))
    assert _told(total).wait(NOTICED_SECONDS)
    with pytest.raises(FleetError, match=r"the maker \(process"):
        total.result(5)
    assert reader.call("note", 1).result(20) == [1]


def test_what_was_made_outlives_its_maker(fleet: Fleet) -> None:
    maker, reader = fleet.start("the maker", Worker), fleet.start("the reader", Worker)
    made = maker.call("make", LARGE, 6)
    assert made.result(20)["value"] == 6
    assert fleet.recovery is not None
    fleet.recovery.end([maker])
    assert reader.call("total", made).result(20) == [(6 * LARGE, 6)]
    with pytest.raises(FleetError, match=r"the maker \(process .* has been ended"):
        maker.call("make", 1, 1)


def test_ending_a_service_answers_all_that_was_asked_of_it(fleet: Fleet) -> None:
    maker, reader = fleet.start("the maker", Worker), fleet.start("the reader", Worker)
    futures = [maker.call("nap", 60.0), *(maker.call("make", 10, number) for number in range(5))]
    futures.append(reader.call("total", futures[-1]))
    told = [_told(future) for future in futures]
    assert fleet.recovery is not None
    fleet.recovery.end([maker])
    for event, future in zip(told, futures, strict=True):
        assert event.wait(NOTICED_SECONDS)
        with pytest.raises(FleetError, match=r"the maker \(process"):
            future.result(5)
    assert reader.call("note", 1).result(20) == [1]


def test_more_services_than_the_machine_has_cores(fleet: Fleet) -> None:
    handles = [fleet.start(f"worker {number}", Worker) for number in range(5)]
    assert [handle.call("note", 1).result(20) for handle in handles] == [[1]] * 5
    assert fleet.recovery is not None
    fleet.recovery.end(handles)
