"""A border's two sides, with messages carried by hand."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qfleet.tabular.border import Border
from qfleet.tabular.cut import Cut, cut_blocks
from qfleet.tabular.learner import TableLearner, Task
from qfleet.tabular.records import NO_ACTION
from tests.topologies.table_teams import task_of, world_named

GRID = world_named("GridWorld-16")
CUT = cut_blocks(256, 2)
HEADER = 5


class Side:
    """One worker's learner and border."""

    def __init__(self, task: Task, rank: int, cut: Cut = CUT) -> None:
        values = np.random.default_rng(rank).normal(size=(1, cut.num_rows(rank), 4))
        self.values = values
        self.learner: TableLearner = task.make_learner(rank, task.make_table(values))
        self.border = Border(self.learner, cut, rank, values)

    def halo(self, state: int) -> float:
        saved = self.border.save_state()
        slots = np.flatnonzero(saved["keys"] == state)
        assert slots.size == 1
        return float(saved["told"][slots[0], 0])

    def known(self) -> list[int]:
        keys = self.border.save_state()["keys"]
        return np.sort(keys[keys >= 0]).tolist()


def two_sides() -> tuple[Side, Side]:
    task = task_of(GRID, "q-learning", 10**6, 2, initial_value=-7.0, walkers=3)
    sides = Side(task, 0), Side(task, 1)
    for side in sides:
        side.learner.begin()
    return sides


def exchange(sides: Sequence[Side], steps: Sequence[int] = (0, 0)) -> list[list[NDArray[np.int64]]]:
    sent = [side.border.messages(count) for side, count in zip(sides, steps, strict=True)]
    for rank, side in enumerate(sides):
        arrived = side.border.receive([messages[rank] for messages in sent])
        assert [part.steps for part in arrived] == list(steps)
    for side in sides:
        side.learner.admit()
    return sent


def test_what_is_asked_for_is_told_from_the_next_exchange_on() -> None:
    sides = two_sides()
    sides[0].border.know(np.array([128, 143, 130]))
    assert [sides[0].halo(state) for state in (128, 130, 143)] == [-7.0] * 3
    sent = exchange(sides)
    assert sent[0][1][HEADER:][-3:].tolist() == [128, 130, 143] and sent[1][0][3] == 0
    assert sides[0].halo(128) == -7.0
    sent = exchange(sides, (5, 7))
    assert sent[0][1][2] == 0 and sent[1][0][3] == 3
    for state in (128, 130, 143):
        assert sides[0].halo(state) == sides[1].values[0, state - 128].max()
    sides[1].learner.table.values[0, 2] = [1.0, 99.0, 2.0, 3.0]
    exchange(sides)
    assert sides[0].halo(130) == 99.0 and sides[1].known() == []


def test_walkers_arrive_with_all_they_carry() -> None:
    sides = two_sides()
    exchange(sides)
    here = [set(side.learner.residents.tolist()) for side in sides]
    assert here[0] | here[1] == set(range(6)) and not here[0] & here[1]
    mover = int(sides[0].learner.residents[0]) if here[0] else int(sides[1].learner.residents[0])
    one, other = (sides[0], sides[1]) if mover in here[0] else (sides[1], sides[0])
    walkers, target = one.learner.walkers, 255 - int(one.learner.walkers.state[mover])
    walkers.state[mover], walkers.action[mover] = target, NO_ACTION
    walkers.age[mover], walkers.born[mover], walkers.episode_return[mover] = 17, 11, -0.25
    random = int(walkers.random[mover])
    exchange(sides)
    assert mover not in one.learner.residents and mover in other.learner.residents
    assert (np.diff(other.learner.residents) > 0).all()
    came = other.learner.walkers
    assert (came.state[mover], came.age[mover], came.born[mover]) == (target, 17, 11)
    assert came.episode_return[mover] == -0.25 and came.action[mover] >= 0
    # One draw since, for the action that its owner chose.
    assert int(came.random[mover]) == (random + 0x9E3779B97F4A7C15) % 2**64


def test_walking_meets_the_border() -> None:
    sides = two_sides()
    exchange(sides)
    for _ in range(60):
        walked = [side.learner.advance(200).steps for side in sides]
        exchange(sides, walked)
    assert set(sides[0].known()) <= set(range(128, 144)) and set(sides[1].known()) <= set(range(112, 128))
    assert len(sides[0].known()) > 4
    exchange(sides)
    for state in sides[0].known():
        assert sides[0].halo(state) == sides[1].learner.table.values[0, state - 128].max()


def test_a_halo_that_grows_keeps_what_it_was_told() -> None:
    """A full one is made larger; nothing is told wrongly meanwhile."""
    sides = two_sides()
    border, asked = sides[0].border, np.arange(128, 256)
    border.know(asked)
    exchange(sides)
    exchange(sides)
    before = [sides[0].halo(int(state)) for state in asked]
    assert before == sides[1].values[0].max(axis=1).tolist()
    state = border.save_state()
    small = 128 * 2 - 2  # of so many slots more than half are taken
    slots = state["keys"].size
    assert small < slots
    border._num_known = slots  # as after a round in which that many were met
    border.make_room()
    assert border.save_state()["keys"].size >= 2 * slots
    assert [sides[0].halo(int(state)) for state in asked] == before


def test_a_new_cut_keeps_what_is_known_and_asks_its_new_owner() -> None:
    sides = two_sides()
    sides[0].border.know(np.array([128, 200]))
    exchange(sides)
    exchange(sides)
    told = sides[0].halo(200)
    moved, rows = Cut((0, 150, 256), CUT.positions), np.concatenate([side.values for side in sides], axis=1)
    sides[0].border.place(moved, rows[:, :150].copy())
    sides[1].border.place(moved, rows[:, 150:].copy())
    assert sides[0].known() == [200] and sides[0].halo(200) == told
    for side, low, high in zip(sides, (0, 150), (150, 256), strict=True):
        here = side.learner.residents
        states = side.learner.walkers.state[here]
        side.learner.leave(here[(states < low) | (states >= high)])
    sent = exchange(sides)
    assert sent[0][1][2] == 1 and sent[1][0][3] == 0
    exchange(sides)
    assert sides[0].halo(200) == rows[0, 200].max()


def test_a_saved_border_goes_on_as_if_it_had_not_been() -> None:
    sides, others = two_sides(), two_sides()
    for pair in (sides, others):
        pair[0].border.know(np.array([128, 129]))
        exchange(pair)
        exchange(pair)
    saved = [(side.border.save_state(), side.learner.save_state()) for side in sides]
    fresh = two_sides()
    for side, (border, learner) in zip(fresh, saved, strict=True):
        side.border.load_state(border)
        side.learner.load_state(learner)
    for pair in (fresh, others):
        exchange(pair, [side.learner.advance(300).steps for side in pair])
        exchange(pair)
    for one, other in zip(fresh, others, strict=True):
        assert one.known() == other.known() and one.values.tobytes() == other.values.tobytes()
        np.testing.assert_array_equal(one.border.load, other.border.load)
        np.testing.assert_array_equal(one.learner.residents, other.learner.residents)
