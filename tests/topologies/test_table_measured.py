"""Balance by measured speed: a slow worker makes less of each round, and owns what is visited less."""

import multiprocessing
import os
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfleet.fleet import Group
from qfleet.tabular.learner import Task
from qfleet.topologies.pace import Pace, even_portions, portions_by
from qfleet.topologies.partitioned import PartitionedConfig, PartitionedWorker
from qfleet.worlds.world import World
from tests.backends.members import Members
from tests.topologies.conftest import MembersOf
from tests.topologies.table_teams import learn_in, make_worker, run, task_of

BURN = 60
"""Turns of the loop in every step of a fast worker: some 200 ns."""


def _step(parameters, state, action, random):
    """A step along a ring, in an action's direction three times in four; it takes as long as it is told to."""
    burned = random
    for _ in range(parameters[0]):
        burned = 3.9 * burned * (1 - burned)
    forward = (action == 1) == (random < 0.75)
    return (state + (1 if forward else -1)) % parameters[1], 1.0 if burned > 2 else 0.0, False


def _reset(parameters, random):
    return int(random * parameters[1])


def ring(num_states: int, burn: int) -> World:
    return World(_step, _reset, num_states, 2, (burn, num_states), "Ring", 1000)


def timed_rounds(
    group: Group, task: Task, burns: tuple[int, ...], balance, rounds: int, round_steps: int = 20_000
):
    """Seconds of each round, as long as this worker's steps take, what was measured, and the bounds."""
    own = replace(task, world=ring(task.world.num_states, burns[group.rank]))
    config = PartitionedConfig(sync_every_steps=round_steps, balance=balance)
    worker, _ = make_worker(group, own, config)
    assert isinstance(worker, PartitionedWorker)
    worker.start()
    seconds, extras = [], {}
    for _ in range(rounds):
        started = time.perf_counter()
        extras = worker.advance(worker.num_steps + 1, None).extras
        seconds.append(time.perf_counter() - started)
    return np.array(seconds), extras, worker.bounds()


def round_seconds(members, task: Task, burns: tuple[int, ...], balance, rounds: int = 70) -> float:
    """Of the faster half of the later rounds: the machine may have other things to do."""
    seconds = run(members, timed_rounds, task, burns, balance, rounds)[0][0][rounds // 2 :]
    return float(np.sort(seconds)[: seconds.size // 2].mean())


def ring_task(num_states: int, walkers: int = 128) -> Task:
    return task_of(ring(num_states, BURN), "q-learning", 10**9, 2, walkers=walkers, exploration_initial=1.0)


@pytest.mark.soak
@pytest.mark.alone
def test_a_worker_three_times_slower_costs_little(members_of: MembersOf) -> None:
    """Together both workers are as fast as two that need 1.5 times the fast one's time for a step."""
    task, members = ring_task(4096), members_of("processes", 2)
    for attempt in range(3):  # two cores are needed at the same time, and others may want them
        balanced = round_seconds(members, task, (BURN * 3 // 2,) * 2, "counts")
        uneven = round_seconds(members, task, (BURN, 3 * BURN), "counts")
        measured = round_seconds(members, task, (BURN, 3 * BURN), "measured")
        if measured < 1.3 * balanced and uneven > 1.5 * balanced:
            break
        assert attempt < 2, (balanced, uneven, measured)


def pinned_rounds(group: Group, task: Task, balance, rounds: int):
    """The same with every worker on a core of its own, which the last one shares with others.

    Rounds are many times as long as the turns that processes take on a core.
    """
    os.sched_setaffinity(0, {group.rank})
    return timed_rounds(group, task, (BURN, BURN), balance, rounds, 2_000_000)


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_worker_slowed_down_by_busy_loops_costs_little() -> None:
    """Two busy processes on the second worker's core leave it a third: balanced, a round takes 1.5 times as long."""
    # With few walkers a round would end early: each that begins an episode in the other's part is gone from there.
    task, members = ring_task(4096, 16_384), Members("processes", 2, 250.0)
    task = replace(task, total_steps=10**10)
    alone = np.median(run(members, pinned_rounds, task, "counts", 15)[0][0][5:])
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=burn_on, args=(1, 60.0), daemon=True) for _ in range(2)]
    for process in busy:
        process.start()
    time.sleep(2)
    uneven = np.mean(run(members, pinned_rounds, task, "counts", 20)[0][0][5:])
    measured = np.mean(run(members, pinned_rounds, task, "measured", 45)[0][0][15:])
    for process in busy:
        process.kill()
        process.join()
    members.fleet.close()
    sys.stdout.write(f"alone {alone:.4f} s, uneven {uneven:.4f} s, measured {measured:.4f} s\n")
    assert uneven > 2 * alone
    assert measured < 1.3 * 1.5 * alone


def burn_on(core: int, seconds: float) -> None:
    os.sched_setaffinity(0, {core})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.soak
@pytest.mark.alone
def test_borders_move_to_where_visits_follow_speed(members_of: MembersOf) -> None:
    """All states of a ring are visited alike: a worker that is three times as fast comes to own most of them."""
    task, extras = ring_task(128), {}
    for attempt in range(3):
        (_, extras, bounds), _ = run(
            members_of("processes", 2), timed_rounds, task, (BURN, 3 * BURN), "measured", 120
        )
        if 80 <= bounds[1] <= 108 and 0.4 < extras["slowest_speed"] < 0.7:
            break
        assert attempt < 2, (bounds, extras)
    assert set(extras) >= {"imbalance_before", "imbalance_after", "round_imbalance"}


@pytest.mark.parametrize("owner", ["counts", "measured"])
def test_a_run_makes_exactly_its_steps(owner, members_of: MembersOf) -> None:
    task = replace(ring_task(64), total_steps=100_003)
    config = PartitionedConfig(sync_every_steps=977, balance=owner)
    learned = run(members_of("threads", 2), learn_in, task, config, (7, 50_001))
    assert {one.num_steps for one in learned} == {100_003}
    assert sum(one.advance.steps for one in learned) == 100_003
    assert ("slowest_speed" in learned[0].extras) == (owner == "measured")


@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(0, 100))
def test_portions(steps: int, speeds: list[float], first: int) -> None:
    shares = np.array(speeds) / np.sum(speeds)
    for portions in (portions_by(shares, steps, first), even_portions(steps, len(speeds), first)):
        assert sum(portions) == steps and min(portions) >= 0
    assert np.abs(np.array(portions_by(shares, steps, first)) - shares * steps).max() <= len(speeds)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_last_steps_reach_everybody_in_turn(steps: int) -> None:
    """Who has nobody left to walk makes none: the others must get them some day."""
    shares = np.array([0.9, 0.05, 0.05])
    assert np.any([portions_by(shares, steps, first) for first in range(3)], axis=0).all()
    assert np.any([even_portions(steps, 3, first) for first in range(3)], axis=0).all()


def noted(rounds: int, milliseconds: list[int], steps: list[int] | None = None) -> Pace:
    pace = Pace(len(milliseconds))
    for _ in range(rounds):
        pace.note(np.array(steps or [1000] * len(milliseconds)), np.array(milliseconds) * 10**6)
    return pace


def test_speeds_are_steps_over_time_once_there_was_some() -> None:
    np.testing.assert_array_equal(noted(3, [1, 3]).shares, [0.5, 0.5])  # milliseconds say nothing yet
    np.testing.assert_allclose(noted(30, [1, 3]).shares, [0.75, 0.25])
    np.testing.assert_allclose(noted(30, [3, 3], [3000, 1000]).shares, [0.75, 0.25])
    np.testing.assert_array_equal(Pace(4).shares, [0.25] * 4)


def test_who_has_not_computed_counts_as_one_of_mean_speed() -> None:
    np.testing.assert_allclose(noted(30, [1, 3, 0], [1000, 1000, 0]).shares, [1 / 2, 1 / 6, 1 / 3])


def test_a_worker_that_was_stopped_is_given_work_and_soon_seen_to_be_fast() -> None:
    pace = noted(30, [10, 10])
    pace.note(np.array([1000, 1000]), np.array([10 * 10**6, 10**11]))
    assert pace.shares[1] == pytest.approx(1 / 32, rel=0.05)
    for _ in range(60):  # of a twentieth of a second each
        steps = np.array(portions_by(pace.shares, 100_000, 0))
        pace.note(steps, steps * 1000)  # both make a step in a microsecond
    assert pace.shares[1] > 0.45


def test_a_pace_goes_on_from_where_it_was_saved() -> None:
    pace, other = noted(30, [1, 3]), Pace(2)
    other.load_state(pace.save_state())
    for each in (pace, other):
        each.note(np.array([500, 500]), np.array([10**7, 10**6]))
    np.testing.assert_array_equal(other.shares, pace.shares)
