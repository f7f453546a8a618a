"""Rates, loads and queues between two moments, by hand."""

import time

import pytest

from qfleet.topologies.looks import Looks
from qfleet.topologies.metering import Metered, Reading
from qfleet.topologies.role_totals import RoleTotals, Totals, Window, busy_share


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([Reading(1, 10)], [Reading(4, 16)], 0.5),
        ([Reading(1, 10), Reading(0, 0)], [Reading(4, 16), Reading(1, 1)], 0.75),  # the mean of two
        ([Reading(1, 10), Reading(2, 5)], [Reading(1, 10), Reading(3, 9)], 0.25),  # one has said nothing
        ([Reading(9, 10)], [Reading(1, 4)], 0.25),  # another one in its place
        ([Reading(1, 10)], [Reading(1, 10)], None),
        ([Reading(1, 10)], [Reading(3.1, 12)], 1.0),  # clocks are not exact
    ],
)
def test_busy_share(before: list[Reading], after: list[Reading], expected: float | None) -> None:
    assert busy_share(before, after) == expected


def totals(
    seconds: float,
    samples: int,
    steps: int,
    updates: int | None,
    learner: Reading,
    queued: float,
    restarts: int,
) -> Totals:
    actor = RoleTotals(
        "actor", steps, "steps", (Reading(seconds / 4, seconds), Reading(seconds / 2, seconds))
    )
    role = RoleTotals("learner", updates or 0, "updates", (learner,), queued, restarts)
    return Totals(seconds, samples, steps, updates, (actor, role))


def test_a_window_sees_what_happened_since_the_last_look() -> None:
    window = Window(totals(10, 100, 1000, 50, Reading(5, 10), 20.0, 0))
    window.stalenesses["actor"] += range(101)
    view = window.look(totals(14, 120, 1800, 250, Reading(8, 14), 50.0, 1))
    actor, learner = view.roles
    assert (actor.num_members, actor.rate, actor.unit, actor.busy) == (2, 200.0, "steps", 0.375)
    assert (actor.queue, actor.restarts, actor.staleness, actor.staleness_p99) == (None, None, 50.0, 99.0)
    assert (learner.rate, learner.busy, learner.queue, learner.restarts) == (50.0, 0.75, 1.5, 1)
    assert learner.staleness is None and view.updates_per_step == 0.25 and view.bottleneck is learner


def test_who_says_nothing_for_a_while_is_as_busy_as_before() -> None:
    window = Window(totals(0, 0, 0, 0, Reading(0, 0), 0.0, 0))
    assert window.look(totals(1, 10, 10, 0, Reading(0.75, 1), 0.0, 0)).roles[1].busy == 0.75
    after = window.look(totals(2, 20, 10, 0, Reading(0.75, 1), 0.0, 0))
    assert after.roles[1].busy == 0.75 and after.updates_per_step is None
    assert window.look(totals(3, 30, 20, 0, Reading(0.75, 3), 0.0, 0)).roles[1].busy == 0.0


def test_where_every_step_is_an_update_there_is_no_ratio() -> None:
    window = Window(totals(0, 0, 0, None, Reading(), 0.0, 0))
    assert window.look(totals(1, 1, 100, None, Reading(1, 1), 0.0, 0)).updates_per_step is None


def test_a_person_and_the_metrics_look_independently() -> None:
    steps = 0
    looks = Looks(lambda: totals(steps / 100, 0, steps, 0, Reading(), 0.0, 0))
    steps = 100
    assert looks.view().roles[0].rate == 0  # of the beginning: half a second is not over
    assert looks.metrics()["fleet/actor/steps_per_second"] == 100
    time.sleep(0.6)
    steps = 400
    looks.note_staleness("actor", 7)
    assert looks.view().roles[0].rate == 100 and looks.view().roles[0].staleness == 7
    logged = looks.metrics()
    assert logged["fleet/actor/staleness"] == 7
    steps = 10**9
    assert looks.metrics() == logged, "a burst of lines: no rates of a few microseconds"
    time.sleep(0.3)
    assert "fleet/actor/staleness" not in looks.metrics()


class Sleeper:
    def __init__(self) -> None:
        self.name = "sleeper"

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return self.name

    def fail(self) -> None:
        time.sleep(0.1)
        raise ValueError("of its own")


def test_a_meter_counts_calls_and_nothing_else() -> None:
    service = Metered(Sleeper())
    time.sleep(0.2)
    assert service.sleep(0.1) == "sleeper"
    with pytest.raises(ValueError, match="of its own"):
        service.fail()
    with pytest.raises(AttributeError, match="wake"):
        service.wake()
    reading = service.read_meter()
    assert 0.2 <= reading.busy_seconds <= reading.seconds - 0.2
