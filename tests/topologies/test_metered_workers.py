"""Groups and workers with a meter, on threads."""

import time

import numpy as np
import pytest

from qfleet.backends.threads import ThreadFleet
from qfleet.errors import FleetError
from qfleet.fleet import Group
from qfleet.tabular.learner import Advance
from qfleet.topologies.metered_workers import MeteredGroup, MeteredMaker
from qfleet.topologies.metering import Reading
from qfleet.topologies.rounds_account import RoundsAccount
from qfleet.topologies.table_learning import RoundsReport
from qfleet.topologies.workers import Workers


class Slow:
    """Computes for a tenth of a second for each of its rank, and waits for the others."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def advance(self, until_steps: int, until_change: float | None) -> RoundsReport:
        self.group.barrier()
        time.sleep(0.1 * self.group.rank)
        self.group.barrier()
        return RoundsReport(Advance(), 1, 1)

    def wait_alone(self) -> float:
        with pytest.raises(FleetError):
            self.group.barrier()
        assert isinstance(self.group, MeteredGroup)
        return self.group.seconds

    def talk(self) -> list[float]:
        group, own = self.group, np.full(self.group.size, float(self.group.rank))
        under_way = group.start_exchange([own[:1]] * group.size)
        found = [float(array[0]) for array in under_way.finish()]
        found.append(float(group.all_reduce(own, "sum")[0]))
        found.append(float(group.broadcast(own, 2)[0]))
        return found + [float(array[0]) for array in group.exchange([own[:1]] * group.size)]


@pytest.fixture
def workers():
    fleet = ThreadFleet()
    yield Workers(fleet, [MeteredMaker(Slow)] * 3, 20.0)
    fleet.close()


def test_a_metered_group_is_the_group(workers: Workers) -> None:
    assert workers.all("talk") == [[0, 1, 2, 3, 2, 0, 1, 2]] * 3


def test_waiting_for_others_is_no_work(workers: Workers) -> None:
    readings = [report.reading for report in workers.all("advance", 10, None)]
    assert readings[2].busy_seconds >= 0.2
    assert readings[0].seconds - readings[0].busy_seconds >= 0.15


def test_waiting_in_vain_is_counted_too() -> None:
    fleet = ThreadFleet()
    try:
        handle, _ = fleet.start_group(["left", "absent"], [MeteredMaker(Slow)] * 2, 0.5)
        waited = handle.call("wait_alone").result(20.0)
    finally:
        fleet.close()
    assert waited >= 0.5


def _report(rounds: int, busy_seconds: float, seconds: float) -> RoundsReport:
    return RoundsReport(Advance(), 0, rounds, reading=Reading(busy_seconds, seconds))


def test_the_driver_sees_workers_and_their_exchanges() -> None:
    account = RoundsAccount(2, None)
    account.note([_report(8, 3.0, 4.0), _report(8, 1.0, 4.0)], 400)
    account.note_updates(100)
    found = account.looks.metrics()
    assert found["fleet/worker/steps_per_second"] == 100 and found["fleet/exchange/rounds_per_second"] == 2
    assert found["fleet/worker/busy"] == found["fleet/exchange/busy"] == 0.5
    assert found["fleet/updates_per_step"] == 0.25 and "fleet/worker/restarts" not in found
    account.note([_report(2, 1.0, 1.0)] * 2, 50)
    account.note_updates(0)
    time.sleep(0.25)  # until the next look
    found = account.looks.metrics()
    assert found["fleet/worker/steps_per_second"] == 50 and found["fleet/worker/is_bottleneck"] == 1
    assert found["fleet/updates_per_step"] == 0
