"""Services in threads: order, errors with their type and traceback, deadlines that name who is late."""

import threading
import time
import traceback

import pytest

from qfleet.backends.threads import ThreadFleet
from qfleet.errors import FleetError


class Service:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.release = threading.Event()

    def note(self, number: int) -> list[int]:
        time.sleep(0.001 * (number % 3))
        self.seen.append(number)
        return list(self.seen)

    def divide(self, number: int) -> float:
        return 1 / number

    def wait(self) -> str:
        assert self.release.wait(20)
        return "released"

    def time_out_itself(self) -> None:
        raise TimeoutError("of its own")


@pytest.fixture
def fleet():
    fleet = ThreadFleet()
    yield fleet
    fleet.close()


def test_calls_run_in_order_one_at_a_time(fleet) -> None:
    handle = fleet.start("the service", Service)
    futures = [handle.call("note", number) for number in range(30)]
    assert [future.result(10) for future in futures] == [list(range(n + 1)) for n in range(30)]


def test_services_run_beside_one_another_and_beside_the_caller(fleet) -> None:
    service = Service()
    waiting = fleet.start("one", lambda: service).call("wait")
    assert fleet.start("two", Service).call("note", 1).result(10) == [1]
    service.release.set()
    assert waiting.result(10) == "released"


def test_an_error_keeps_its_type_and_traceback_and_the_service_lives_on(fleet) -> None:
    handle = fleet.start("the service", Service)
    with pytest.raises(ZeroDivisionError) as raised:
        handle.call("divide", 0).result(10)
    assert "return 1 / number" in "".join(traceback.format_tb(raised.value.__traceback__))
    assert handle.call("divide", 4).result(10) == 0.25
    with pytest.raises(TimeoutError, match="of its own"):
        handle.call("time_out_itself").result(10)


def test_a_service_that_cannot_start_says_why_at_every_call(fleet) -> None:
    def fail() -> Service:
        raise ValueError("no such thing")

    handle = fleet.start("the service", fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such thing"):
            handle.call("note", 1).result(10)


def test_a_deadline_names_the_service_and_the_method(fleet) -> None:
    service = Service()
    waiting = fleet.start("the sleeper", lambda: service).call("wait")
    with pytest.raises(FleetError, match=r"the sleeper has not finished wait within 0\.05 s") as raised:
        waiting.result(0.05)
    assert "\n" not in str(raised.value)
    service.release.set()
    assert waiting.result(10) == "released"


def test_close_finishes_what_was_called_ends_the_threads_and_may_come_twice() -> None:
    fleet, service = ThreadFleet(), Service()
    before = threading.active_count()
    handle = fleet.start("the service", lambda: service)
    for number in range(5):
        handle.call("note", number)
    fleet.close()
    fleet.close()
    assert service.seen == [0, 1, 2, 3, 4] and threading.active_count() == before


def test_close_leaves_a_hung_thread_behind_after_a_short_time() -> None:
    fleet, service = ThreadFleet(), Service()
    fleet.start("the sleeper", lambda: service).call("wait")
    started = time.monotonic()
    fleet.close()
    assert time.monotonic() - started < 5
    service.release.set()
