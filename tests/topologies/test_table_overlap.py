"""Exchanges that overlap the next round: one round older on every backend alike, and nothing is lost on the way."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qfleet.errors import QfleetError
from qfleet.fleet import Group
from qfleet.settings import Settings
from qfleet.tabular.learner import Task
from qfleet.topologies.mail import Mail
from qfleet.topologies.partitioned import PartitionedConfig, PartitionedWorker
from qfleet.topologies.serial import TableSerialConfig
from tests.topologies.conftest import MembersOf
from tests.topologies.table_teams import learn, learn_in, make_worker, run, table_of, task_of
from tests.topologies.test_table_partitioned import EVERYWHERE, EXACT_EPSILON, GRID, UNEVEN, error_of

STEPS, ROUND = 60_013, 977
AT_ONCE = PartitionedConfig(sync_every_steps=ROUND)
OVERLAPPED = replace(AT_ONCE, overlap=True)
TURNS = (1, 2, 3 * ROUND, 3 * ROUND + 1, 10_000, 10_001, 10_500, 40_000, STEPS - 1)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_threads_and_processes_give_the_same_bits(workers: int, members_of: MembersOf) -> None:
    """Borders move under way: UNEVEN is."""
    task = task_of(UNEVEN, "q-learning", STEPS, workers)
    tables = {
        backend: learn(members_of(backend, workers), task, OVERLAPPED) for backend in ("threads", "processes")
    }
    assert tables["threads"].tobytes() == tables["processes"].tobytes()
    assert learn(members_of("threads", workers), task, AT_ONCE).tobytes() != tables["threads"].tobytes()


@pytest.mark.parametrize("world", ["uneven", "grid"])
@pytest.mark.parametrize("workers", [2, 3])
def test_turns_change_nothing(world, workers: int, members_of: MembersOf) -> None:
    task = task_of(UNEVEN if world == "uneven" else GRID, "q-learning", STEPS, workers)
    group = members_of("threads", workers)
    assert learn(group, task, OVERLAPPED, TURNS).tobytes() == learn(group, task, OVERLAPPED).tobytes()


def test_one_worker_is_serial(members_of: MembersOf) -> None:
    task, alone = task_of(GRID, "q-learning", STEPS), members_of("threads", 1)
    assert learn(alone, task, OVERLAPPED).tobytes() == learn(alone, task, TableSerialConfig()).tobytes()


def learn_with_a_stop(group: Group, task: Task, stops: tuple[int, ...]) -> Any:
    """Saves at `stops`, and goes on with another worker made from what was saved."""
    worker, _ = make_worker(group, task, OVERLAPPED)
    worker.start()
    travelling = 0
    for stop in (*stops, task.total_steps):
        assert isinstance(worker, PartitionedWorker)
        worker.advance(stop, None)
        state, rows, bounds = worker.save_state(), worker.rows().copy(), worker.bounds()
        travelling += sum(int(message[1]) for message in state["mail"].values())
        other, _ = make_worker(group, task, OVERLAPPED)
        assert isinstance(other, PartitionedWorker)
        other.set_rows(bounds, rows)
        other.load_state(state)
        worker = other
    assert isinstance(worker, PartitionedWorker)
    return worker.rows().copy(), worker.bounds(), worker.save_state(), travelling


def test_a_saved_worker_holds_what_was_under_way(members_of: MembersOf) -> None:
    group, task = members_of("threads", 3), task_of(UNEVEN, "q-learning", STEPS, 3)
    stopped, unstopped = (
        run(group, learn_with_a_stop, task, stops) for stops in ((5000, 20_000, 40_001), ())
    )
    for (rows, bounds, state, travelling), (others, other_bounds, other_state, _) in zip(
        stopped, unstopped, strict=True
    ):
        assert rows.tobytes() == others.tobytes() and bounds == other_bounds and travelling > 10
        assert state["num_steps"] == other_state["num_steps"] == STEPS
        assert state["rounds"] == other_state["rounds"] and not state["mail"]
        np.testing.assert_array_equal(state["learner"]["residents"], other_state["learner"]["residents"])


def whereabouts(group: Group, task: Task) -> list[Any]:
    """After every round: who is here, who is on the way here, steps heard of, and those in letters that lie here."""
    worker, _ = make_worker(group, task, OVERLAPPED)
    worker.start()
    seen = []
    while worker.num_steps < task.total_steps:
        worker.advance(worker.num_steps + 1, None)
        state = worker.save_state()
        coming = [message[5 : 5 + int(message[1])] for message in state["mail"].values()]
        lying = sum(int(message[0]) for message in state["mail"].values())
        assert state["heard_steps"] + lying == worker.num_steps
        seen.append((state["learner"]["residents"].copy(), np.concatenate([np.empty(0, np.int64), *coming])))
    return seen


def test_every_walker_is_at_one_place_or_on_one_way(members_of: MembersOf) -> None:
    task = task_of(UNEVEN, "q-learning", 50_003, 3)
    by_worker = run(members_of("threads", 3), whereabouts, task)
    on_the_way = 0
    for parts in zip(*by_worker, strict=True):
        everybody = np.concatenate([walkers for part in parts for walkers in part])
        np.testing.assert_array_equal(np.sort(everybody), np.arange(task.num_walkers))
        on_the_way += sum(len(coming) for _, coming in parts)
    assert on_the_way > len(by_worker[0])


@pytest.mark.parametrize("rule", ["q-learning", "expected-sarsa"])
def test_it_converges(rule, members_of: MembersOf) -> None:
    config = PartitionedConfig(sync_every_steps=5000, overlap=True)
    task = task_of(UNEVEN, rule, 3_000_003, 3, **EXACT_EPSILON)
    learned = run(members_of("threads", 3), learn_in, task, config)
    assert error_of(task, table_of(learned)) < 0.05 and learned[0].bounds != (0, 20, 40, 60)
    if rule == "q-learning":
        task = task_of(GRID, rule, 3_000_003, 3, **EVERYWHERE)
        assert error_of(task, table_of(run(members_of("threads", 3), learn_in, task, config))) < 1e-6


def watched(group: Group, task: Task) -> Any:
    worker, _ = make_worker(group, task, OVERLAPPED)
    worker.start()
    changes = []
    for until in range(5000, task.total_steps + 1, 5000):
        report = worker.advance(until, 0.0)
        changes.append(report.largest_change)
    return changes


def test_changes_are_watched_with_messages_under_way(members_of: MembersOf) -> None:
    task = task_of(GRID, "q-learning", 50_000, 2)
    one, other = run(members_of("threads", 2), watched, task)
    assert one == other and any(change for change in one)


def test_sarsa_is_refused() -> None:
    settings = Settings.from_json(
        {
            "environment": "GridWorld-16",
            "run": {"topology": "partitioned", "algorithm": "sarsa", "workers": 2},
        }
    )
    with pytest.raises(QfleetError, match="--overlap does not work with --algorithm sarsa") as raised:
        replace(settings, topology=OVERLAPPED)
    assert "\n" not in str(raised.value)


def post(group: Group) -> Any:
    mail, heard = Mail(group), []
    for number in range(4):
        mail.send([np.array([group.rank, other, number]) for other in range(group.size)])
        if number % 2:
            lying = mail.hold()
            assert [message.tolist() for message in mail.hold()] == [message.tolist() for message in lying]
            group.barrier()
            after = Mail(group)
            after.load_state(mail.save_state())
            assert [m.tolist() for m in after.take()] == [m.tolist() for m in lying]
        heard.append([message.tolist() for message in mail.take()])
        assert len(mail.take()) == 0
    return heard


def test_mail_is_heard_once_whether_it_was_held_or_not(members_of: MembersOf) -> None:
    for rank, heard in enumerate(run(members_of("threads", 3), post)):
        assert heard == [[[sender, rank, number] for sender in range(3)] for number in range(4)]
