"""Crews of real services: whoever is done is heard first, and who is lost is told from who waits for it."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from qfleet.backends.processes import ProcessFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.errors import FleetError
from qfleet.fleet import Fleet
from qfleet.topologies.crew import Completions, Crew
from qfleet.topologies.lost_members import find_gone, find_lost
from qfleet.topologies.restarts import Restarts
from tests import clock

FLEETS = {"threads": ThreadFleet, "processes": ProcessFleet}
START_SECONDS = 60.0


class Adder:
    """Adds what it is given, after a while; knows how often it was replaced."""

    def __init__(self, number: int, incarnation: int) -> None:
        self.number, self.incarnation = number, incarnation

    def answer(self) -> None:
        """It is there."""

    def who(self) -> tuple[int, int, int]:
        return self.number, self.incarnation, os.getpid()

    def add(self, seconds: float, *values: int) -> int:
        time.sleep(seconds)
        return sum(values)

    def close(self) -> None:
        """There is nothing to free."""


@pytest.fixture(params=FLEETS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    made = FLEETS[request.param]()
    yield made
    made.close()


@pytest.fixture
def processes() -> Iterator[ProcessFleet]:
    made = ProcessFleet()
    yield made
    made.close()


def adders(fleet: Fleet, role: str, size: int, allowed: int = 0) -> Crew:
    makers = [partial(Adder, number) for number in range(size)]
    crew = Crew(fleet, role, makers, Restarts(allowed), 30.0)
    crew.all("answer", timeout_seconds=START_SECONDS)
    return crew


def test_whoever_is_done_first_is_heard_first(fleet: Fleet) -> None:
    crew = adders(fleet, "adder", 2)
    done = Completions[str](20.0)
    done.watch("slow", crew.call(0, "add", 1.0, 1, 2))
    done.watch("quick", crew.call(1, "add", 0.1, 3, 4))
    heard = [done.next() for _ in range(len(done))]
    assert [(tag, future.result(0.0)) for tag, future in heard] == [("quick", 7), ("slow", 3)]
    assert len(done) == 0 and "slow" not in done


def test_one_that_was_watched_anew_is_heard_once(fleet: Fleet) -> None:
    crew = adders(fleet, "adder", 1)
    done = Completions[int](20.0)
    done.watch(5, crew.call(0, "add", 0.0, 1))
    done.watch(5, crew.call(0, "add", 0.0, 2))
    tag, future = done.next()
    assert (tag, future.result(0.0), len(done)) == (5, 2, 0)


def test_one_that_is_late_is_told_in_time_and_forgotten(fleet: Fleet) -> None:
    crew = adders(fleet, "adder", 2)
    done = Completions[str](0.5)
    done.watch("late", crew.call(0, "add", 2.0))
    started = time.monotonic()
    with pytest.raises(FleetError, match=r"late.* is not over after 0.5 s"):
        done.next()
    assert 0.4 < time.monotonic() - started < clock.seconds(0.8, 3) and "late" not in done
    done.watch("next", crew.call(1, "add", 0.0, 1))
    assert done.next()[0] == "next"


def test_calls_under_way_are_known_with_what_they_wait_for(fleet: Fleet) -> None:
    first, second = adders(fleet, "first", 1), adders(fleet, "second", 1)
    made = first.call(0, "add", 0.5, 1)
    total = second.call(0, "add", 0.0, made, 5)
    (call,) = second.under_way(0)
    assert (call.method, call.future, call.given) == ("add", total, (made,))
    assert total.result(20) == 6
    deadline = time.monotonic() + 5
    while (first.under_way(0) or second.under_way(0)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert first.under_way(0) == second.under_way(0) == []


def test_who_waits_for_a_lost_one_is_not_lost(fleet: Fleet) -> None:
    """The first hangs; the second waits for what it is to give, and the third for the second."""
    crews = [adders(fleet, name, 1) for name in ("first", "second", "third", "fourth")]
    made = crews[0].call(0, "add", 6.0, 1)
    crews[2].call(0, "add", 0.0, crews[1].call(0, "add", 0.0, made))
    lost = find_lost(crews, {}, 9.0)
    assert list(lost) == [(crews[0], 0)]
    said = str(lost[crews[0], 0])
    assert said.startswith("first 0 has not finished add within 9 s") and "\n" not in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_who_is_gone_is_told_without_waiting_for_the_busy(processes: ProcessFleet, number: int) -> None:
    """The first is busy, the second is gone, and the third waits for what the second was to give."""
    crews = [adders(processes, name, 1) for name in ("first", "second", "third")]
    process_id = crews[1].one(0, "who")[2]
    crews[0].call(0, "add", 8.0, 1)
    made, told = crews[1].call(0, "add", 60.0, 1), threading.Event()
    crews[2].call(0, "add", 0.0, made)
    made.when_done(told.set)
    os.kill(process_id, number)
    assert told.wait(clock.seconds(2, 6))
    started = time.monotonic()
    gone = find_gone(crews, {})
    assert time.monotonic() - started < clock.seconds(0.5, 0.9) and list(gone) == [(crews[1], 0)]
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "was stopped"
    assert re.match(rf"second 0 \(process \d+\) {how}", str(gone[crews[1], 0]))


def test_the_killed_and_the_stopped_are_lost_and_named(processes: ProcessFleet) -> None:
    crew = adders(processes, "adder", 3, allowed=2)
    ids = [process_id for _, _, process_id in crew.all("who")]
    os.kill(ids[0], signal.SIGKILL)
    os.kill(ids[2], signal.SIGSTOP)
    started = time.monotonic()
    lost = find_lost([crew], {}, 9.0)
    assert time.monotonic() - started < clock.seconds(2, 4)
    assert {number for _, number in lost} == {0, 2}
    assert f"adder 0 (process {ids[0]}) was killed by SIGKILL" in str(lost[crew, 0])
    assert f"adder 2 (process {ids[2]}) was stopped" in str(lost[crew, 2])
    for (_, number), error in lost.items():
        crew.end(number, error, 100)
        crew.start_another(number)
    who = crew.all("who", timeout_seconds=START_SECONDS)
    assert [(number, incarnation) for number, incarnation, _ in who] == [(0, 1), (1, 0), (2, 1)]
    assert who[1][2] == ids[1] and not {who[0][2], who[2][2]} & set(ids)
    assert find_lost([crew], {}, 9.0) == {} and not crew.is_replaceable


def test_a_spent_budget_raises_why(processes: ProcessFleet) -> None:
    crew = adders(processes, "adder", 1, allowed=1)
    crew.end(0, FleetError("it fell over"), 7)
    crew.start_another(0)
    with pytest.raises(FleetError, match=r"it fell over again; all 1 restarts are spent \(--restarts\)"):
        crew.end(0, FleetError("it fell over again"), 9)


def test_threads_cannot_be_replaced() -> None:
    fleet = ThreadFleet()
    crew = adders(fleet, "adder", 1, allowed=3)
    assert not crew.is_replaceable
    with pytest.raises(FleetError, match="it hangs"):
        crew.end(0, FleetError("it hangs"), 7)
    fleet.close()


def test_meters_are_read_without_waiting(fleet: Fleet) -> None:
    crew = adders(fleet, "adder", 2)
    done = Completions[int](20.0)
    for _ in range(3):
        done.watch(len(done), crew.call(0, "add", 0.3, 1))
    assert crew.num_queued == 2
    deadline, asked_seconds = time.monotonic() + 20, 0.0
    while crew.readings[0].busy_seconds < 0.85 and time.monotonic() < deadline:
        started = time.perf_counter()
        crew.ask_meters()
        asked_seconds = max(asked_seconds, time.perf_counter() - started)
        time.sleep(0.02)
    busy, idle = crew.readings
    assert 0.85 <= busy.busy_seconds <= busy.seconds and idle.busy_seconds < 0.2 < idle.seconds
    assert asked_seconds < clock.seconds(0.2, 5) and crew.num_queued == 0


def test_a_new_one_has_a_meter_of_its_own(processes: ProcessFleet) -> None:
    crew = adders(processes, "adder", 1, allowed=1)
    crew.one(0, "add", 0.5)
    _read(crew, lambda: crew.readings[0].busy_seconds >= 0.5)
    os.kill(crew.one(0, "who")[2], signal.SIGKILL)
    with pytest.raises(FleetError) as lost:
        crew.one(0, "answer")
    crew.end(0, lost.value, 0)
    crew.start_another(0)
    _read(crew, lambda: crew.readings[0].seconds > 0 and crew.readings[0].busy_seconds < 0.5)
    assert crew.incarnations == [1]


def _read(crew: Crew, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        assert time.monotonic() < deadline
        crew.ask_meters()
        time.sleep(0.02)
