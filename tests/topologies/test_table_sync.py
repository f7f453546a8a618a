"""How long rounds are: as asked for, or as exchanges take under a tenth of the time; and what they tell."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qfleet.errors import QfleetError
from qfleet.fleet import Group
from qfleet.tabular.learner import Task
from qfleet.topologies.averaged import AveragedConfig, AveragedWorker
from qfleet.topologies.partitioned import PartitionedConfig, PartitionedWorker
from qfleet.topologies.sync_period import MOST_FRACTION, SyncPeriod, chosen_steps
from qfleet.worlds.mdp import MDP
from tests.topologies.conftest import MembersOf
from tests.topologies.table_teams import learn, learn_in, make_worker, run, task_of, world_named


@pytest.mark.parametrize(
    ("fraction", "steps"),
    [
        (0.1, 1024),
        (0.02, 1024),
        (0.019, 512),
        (0.0, 512),
        (0.11, 2048),  # takes 0.058 then
        (0.5, 16 * 1024),  # 13.3 times as long would do
        (0.9, 128 * 1024),
        (1.0, 2**20),
    ],
)
def test_rounds_change_by_factors_of_two(fraction: float, steps: int) -> None:
    chosen = chosen_steps(1024, fraction, 1, 2**20)
    assert chosen == steps
    if 0.1 < fraction < 1:
        exchanging, computing = fraction, (1 - fraction) * chosen / 1024
        assert 0.02 < exchanging / (exchanging + computing) < MOST_FRACTION


def test_rounds_stay_within_bounds() -> None:
    assert chosen_steps(1000, 0.9, 1, 3000) == 3000
    assert chosen_steps(4000, 0.9, 1, 3000) == 4000  # asked for
    assert chosen_steps(300, 0.0, 256, 3000) == 256
    assert chosen_steps(100, 0.0, 256, 3000) == 100


def choose_alone(group: Group, computing: list[float], whole: list[float]) -> Any:
    """Rounds of these seconds of every rank, without spending them."""
    period = SyncPeriod(1000, 10**9, "auto", group)
    due = []
    for _ in range(12):
        with period.round():
            pass
        due.append(period.is_due)
        if period.is_due:
            period._seconds[:] = computing[group.rank], whole[group.rank]
            period.choose()
    return period.steps, due, period.measured()


def test_all_agree_and_the_slowest_waits_for_nobody(members_of: MembersOf) -> None:
    """The second rank computes for nine tenths of the time: that the first one waits for it is no communication."""
    found = run(members_of("threads", 2), choose_alone, [0.1, 0.95], [1.0, 1.0])
    steps, due, measured = found[0]
    assert found[0] == found[1] and steps == 1000
    assert [number for number, is_due in enumerate(due, 1) if is_due] == [4, 12]
    assert measured == {"sync_every_steps": 1000.0, "communication_fraction": pytest.approx(0.05)}
    steps, due, _ = run(members_of("threads", 2), choose_alone, [0.1, 0.2], [1.0, 1.0])[0]
    assert steps == 10**9 // 40  # the most there may be; a factor of 64 each time
    assert [number for number, is_due in enumerate(due, 1) if is_due][:2] == [4, 8]


def choose_none(group: Group) -> bool:
    period = SyncPeriod(1000, 10**9, "auto" if group.size == 1 else "steps", group)
    for _ in range(100):
        with period.round(), period.computing():
            pass
    return period.is_due or bool(period.measured())


def test_one_worker_and_a_number_that_was_asked_for_choose_nothing(members_of: MembersOf) -> None:
    assert not any(run(members_of("threads", 1), choose_none) + run(members_of("threads", 2), choose_none))


def state_of(group: Group) -> Any:
    period, other = (SyncPeriod(1000, 10**9, "auto", group) for _ in range(2))
    period._seconds[:] = 0.5, 1.0
    period.choose()
    other.load_state(period.save_state())
    return period.steps, other.steps, period.measured() == other.measured()


def test_what_was_chosen_is_saved(members_of: MembersOf) -> None:
    assert run(members_of("threads", 2), state_of) == [(16_000, 16_000, True)] * 2


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_merges_of_a_large_table_come_to_take_under_a_tenth(backend, members_of: MembersOf) -> None:
    """A merge of a million entries takes as long as 100,000 steps or twice that, and the rounds begin with a hundred.

    A round is at most a twentieth of the run.
    """
    task = task_of(world_named("GridWorld-512"), "q-learning", 240_000_000, 2)
    extras = {}
    for attempt in range(3):  # a merge takes longer where others want the cores: the choice is of that moment
        config = AveragedConfig(sync_every_steps=100, sync_every="auto")
        learned = run(members_of(backend, 2), learn_in, task, config)
        extras = learned[0].extras
        assert learned[0].num_steps == task.total_steps and learned[1].extras == extras
        if extras["sync_every_steps"] > 10_000 and extras["communication_fraction"] < MOST_FRACTION:
            break
        assert attempt < 2, extras


@pytest.mark.soak
@pytest.mark.alone
def test_exchanges_come_to_take_under_a_tenth_too(members_of: MembersOf) -> None:
    """Walkers that go anywhere seldom come to the border: rounds are as long as they may be."""
    everywhere = {"exploration_initial": 1.0, "exploration_final": 1.0, "walkers": 512}
    task = task_of(world_named("GridWorld-512"), "q-learning", 80_000_000, 2, **everywhere)
    config = PartitionedConfig(sync_every_steps=100, sync_every="auto", balance="none")
    extras = {}
    for attempt in range(3):
        extras = run(members_of("threads", 2), learn_in, task, config)[0].extras
        if extras["sync_every_steps"] > 200 and extras["communication_fraction"] < MOST_FRACTION:
            break
        assert attempt < 2, extras


def test_what_is_chosen_twice_is_refused() -> None:
    with pytest.raises(QfleetError, match=r"sync_growth is 1\.5 and sync_every auto"):
        AveragedConfig(sync_growth=1.5, sync_every="auto")
    for config in (AveragedConfig, PartitionedConfig):
        with pytest.raises(QfleetError, match="sync_every is 'rounds'; it must be one of steps, auto"):
            config(sync_every="rounds")  # pyright: ignore[reportArgumentType]


def told_by(group: Group, task: Task) -> dict[str, float]:
    """By a round, once the border is known."""
    worker, _ = make_worker(group, task, PartitionedConfig(sync_every_steps=2000, balance="none"))
    assert isinstance(worker, PartitionedWorker)
    worker.start()
    return worker.advance(task.total_steps, None).extras


def test_bytes_follow_the_border_and_not_the_table(members_of: MembersOf) -> None:
    """Two blocks of an N x N grid have N cells on either side of their border, of N^2 / 2."""
    sides = np.array([16, 32, 64, 128])
    values, bytes_without_walkers = [], []
    for side in sides.tolist():
        task = task_of(world_named(f"GridWorld-{side}"), "q-learning", 400_000, 2, walkers=64)
        extras = run(members_of("threads", 2), told_by, task)[0]
        values.append(extras["told_values_per_round"])
        walkers = 48 * extras["sent_walkers_per_round"]
        bytes_without_walkers.append(extras["sent_bytes_per_round"] - walkers - 40)  # the message's header
    np.testing.assert_allclose(np.array(values) / sides, 1.0, atol=0.15)
    np.testing.assert_allclose(np.array(bytes_without_walkers) / (8 * sides), 1.0, atol=0.2)


def test_bytes_of_a_larger_table_with_the_same_border_are_the_same(members_of: MembersOf) -> None:
    """A corridor of 64 or 8192 states: one on either side of the border."""
    told = []
    for length in (64, 8192):
        states = np.arange(length)
        mdp = MDP.from_arrays(
            np.stack([np.maximum(states - 1, 0), np.minimum(states + 1, length - 1)], axis=1),
            np.zeros((length, 2)),
            max_episode_steps=50,
        )
        task = task_of(mdp.world(), "q-learning", 200_000, 2)
        extras = run(members_of("threads", 2), told_by, task)[0]
        told.append(extras["told_values_per_round"])
    assert 0.9 < told[0] < 1.1 and 0.9 < told[1] < 1.1


def saved_and_gone_on(group: Group, task: Task, config: Any) -> Any:
    worker, _ = make_worker(group, task, config)
    worker.start()
    worker.advance(30_000, None)
    state = worker.save_state()
    other, values = make_worker(group, task, config)
    other.load_state(state)
    assert isinstance(other, AveragedWorker) and values is not None
    return state["period"]["steps"], other.save_state()["period"]["steps"], other.num_steps


def test_a_resumed_run_goes_on_with_the_length_that_was_chosen(members_of: MembersOf) -> None:
    task = task_of(world_named("GridWorld-16"), "q-learning", 10**6, 2)
    config = AveragedConfig(sync_every_steps=100, sync_every="auto")
    one, other = run(members_of("threads", 2), saved_and_gone_on, task, config)
    assert one == other and one[0] == one[1] and one[2] >= 30_000


def test_what_was_asked_for_is_kept(members_of: MembersOf) -> None:
    task = replace(task_of(world_named("GridWorld-16"), "q-learning", 50_000, 2))
    tables = {steps: learn(members_of("threads", 2), task, AveragedConfig(steps)) for steps in (500, 5000)}
    assert tables[500].tobytes() != tables[5000].tobytes()
