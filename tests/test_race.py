"""A race from Python: every scheme on the same world for the same number of steps, and what is said of it."""

import json
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.contestant import SCHEMES, compared, curve_steps
from qfleet.errors import QfleetError
from qfleet.interruption import Interrupted
from qfleet.racing import Race, RaceStatus, default_steps
from qfleet.runs.race_record import SchemeRecord, race_from_json
from qfleet.worlds.catalogue import make_world

STEPS = 400_000


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Race, list[RaceStatus]]:
    statuses: list[RaceStatus] = []
    out = tmp_path_factory.mktemp("race") / "here"
    return qfleet.race("GridWorld-4", steps=STEPS, seed=3, out=out, on_status=statuses.append), statuses


def scheme(race: Race, name: str) -> SchemeRecord:
    return next(found for found in race.record.schemes if found.name == name)


def test_all_schemes_make_the_same_steps_and_reach_the_exact_solution(
    raced: tuple[Race, list[RaceStatus]],
) -> None:
    record = raced[0].record
    assert [found.name for found in record.schemes] == [found.name for found in SCHEMES]
    assert record.is_complete and record.grid_shape == (4, 4) and record.optimal_return == pytest.approx(1)
    for found in record.schemes:
        assert found.steps == STEPS and found.workers == (1 if found.topology == "serial" else 2)
        assert found.max_error is not None and found.max_error < 1e-6 and found.mean_return == 1
        assert found.curve[0][0] == 0 and found.curve[0][2] == pytest.approx(1) and len(found.curve) > 10
        assert found.curve[-1] == (STEPS, found.seconds, found.max_error)
        assert all(np.diff([point[0] for point in found.curve]) > 0)
        assert found.steps_per_second == pytest.approx(STEPS / found.seconds)


def test_what_the_workers_exchanged_is_that_of_their_topology(raced: tuple[Race, list[RaceStatus]]) -> None:
    serial, shared, equal, visits, partitioned = raced[0].record.schemes
    assert serial.rounds is serial.staleness_steps is shared.rounds is None and shared.staleness_steps == 0
    assert shared.lost_update_fraction is not None and 0 < shared.lost_update_fraction < 1
    # A round is a twentieth of the run, half of it made by the other worker.
    assert (equal.rounds, equal.staleness_steps) == (visits.rounds, visits.staleness_steps) == (20, 10_000)
    assert partitioned.rounds is not None and partitioned.parked_fraction is not None
    assert partitioned.staleness_steps == pytest.approx(STEPS / 2 / partitioned.rounds)
    assert partitioned.imbalance_before is not None and partitioned.imbalance_before >= 1
    assert serial.imbalance_before is equal.parked_fraction is visits.lost_update_fraction is None


def test_the_policy_map_shows_the_way_to_the_goal(raced: tuple[Race, list[RaceStatus]]) -> None:
    for found in raced[0].record.schemes:
        drawn = found.policy
        assert drawn is not None and (drawn.rows, drawn.columns, drawn.terminal) == (4, 4, (15,))
        assert not drawn.walls and len(drawn.start) == 15
        assert all(right + down == 1 for right, down in list(zip(drawn.across, drawn.down, strict=True))[:15])


def test_statuses_tell_of_every_scheme_from_its_beginning_to_its_end(
    raced: tuple[Race, list[RaceStatus]],
) -> None:
    race, statuses = raced
    for found in race.record.schemes:
        own = [status for status in statuses if status.scheme == found.name]
        assert [own[0].phase, own[1].steps, own[-1].phase] == ["preparing", 0, "finished"]
        assert own[-1].steps == own[-1].total_steps == STEPS and own[-1].seconds == found.seconds
        assert own[-1].error == found.max_error


def test_what_is_written_is_the_record_and_its_page(raced: tuple[Race, list[RaceStatus]]) -> None:
    race = raced[0]
    assert race_from_json(json.loads((race.folder / "race.json").read_text())) == race.record
    assert sorted(path.name for path in race.folder.iterdir()) == ["race.json", "report.html"]
    assert "Race on GridWorld-4" in race.report.read_text()


def test_the_same_seed_learns_the_same_on_threads_and_processes(
    raced: tuple[Race, list[RaceStatus]], tmp_path: Path
) -> None:
    other = qfleet.race("GridWorld-4", steps=STEPS, seed=3, backend="processes", out=tmp_path / "again")
    for name in ("serial", "averaged (equal)", "averaged (visits)", "partitioned"):
        first, second = scheme(raced[0], name), scheme(other, name)
        assert [point[::2] for point in first.curve] == [point[::2] for point in second.curve]
        assert first.policy == second.policy
    assert other.record.backend == "processes"


def test_a_world_that_cannot_be_solved_races_without_errors(tmp_path: Path) -> None:
    world = make_world("GridWorld-4", {})
    assert world is not None
    lines: list[str] = []
    race = qfleet.race(
        replace(world, mdp=None, name="Mine"), steps=20_000, out=tmp_path / "race", on_message=lines.append
    )
    assert (
        len(lines) == 1
        and "Mine has no exact solution, its transitions are known to its functions" in lines[0]
    )
    assert all(not found.curve and found.max_error is None for found in race.record.schemes)
    assert all(found.seconds_to_error is None and found.policy is not None for found in race.record.schemes)
    assert "The exact solution of this world is not known" in race.report.read_text()


def test_frozen_lake_is_drawn_with_its_own_directions_and_holes(tmp_path: Path) -> None:
    race = qfleet.race(
        "FrozenLake-v1", steps=300_000, out=tmp_path / "race", environment_options=("is_slippery=False",)
    )
    drawn = race.record.schemes[0].policy
    assert drawn is not None and drawn.terminal == (5, 7, 11, 12, 15) and drawn.start == (0,)
    assert race.record.grid_shape == (4, 4) and not drawn.walls
    assert (drawn.across[14], drawn.down[14]) == (1, 0) and (drawn.across[10], drawn.down[10]) == (0, 1)


def test_seconds_to_error_is_the_first_time_at_or_below_serials(raced: tuple[Race, list[RaceStatus]]) -> None:
    serial = replace(raced[0].record.schemes[0], max_error=0.25, steps_per_second=100.0)
    curve = ((0, 0.0, 1.0), (10, 0.5, 0.26), (20, 1.0, 0.25), (30, 1.5, 0.1))
    shared = replace(serial, workers=4, steps_per_second=300.0, curve=curve, max_error=0.1)
    found = compared(shared, serial, 0.0)
    assert (found.seconds_to_error, found.speed_up, found.efficiency) == (1.0, 3.0, 0.75)
    # What rounding leaves is no error.
    assert compared(shared, serial, 0.3).seconds_to_error == 0.5
    assert compared(replace(shared, curve=curve[:2]), serial, 0.0).seconds_to_error is None
    assert compared(shared, replace(serial, max_error=None), 0.3).seconds_to_error is None


@pytest.mark.parametrize("total", [1, 7, 40, 1600, 10_000_000])
def test_the_error_is_measured_more_often_at_the_beginning(total: int) -> None:
    steps = curve_steps(total)
    assert steps[-1] == total and steps[0] == max(1, total // 1600) and len(steps) <= 40
    assert steps == sorted(set(steps)) and (total < 1600 or (len(steps) == 40 and steps[20] < total / 3))


@pytest.mark.parametrize(
    ("name", "steps"), [("Chain-4", 10_000_000), ("GridWorld-64", 2**28), ("GridWorld-512", 400_000_000)]
)
def test_default_steps_go_with_the_table(name: str, steps: int) -> None:
    world = make_world(name, {})
    assert world is not None and default_steps(world) == steps


@pytest.mark.parametrize("after", ["shared", "serial"])
def test_an_interrupted_race_reports_what_is_finished(tmp_path: Path, after: str) -> None:
    assert threading.current_thread() is threading.main_thread()

    def interrupt(status: RaceStatus) -> None:
        if status.scheme == after and status.phase == "training" and status.steps:
            signal.raise_signal(signal.SIGINT)
            interrupted.append(status)

    interrupted: list[RaceStatus] = []
    out = tmp_path / "race"
    if after == "serial":  # nothing is finished
        with pytest.raises(Interrupted):
            qfleet.race("GridWorld-4", steps=STEPS, out=out, on_status=interrupt)
        assert not out.exists()
        return
    race = qfleet.race("GridWorld-4", steps=STEPS, out=out, on_status=interrupt)
    assert race.interrupted_by == signal.SIGINT and len(interrupted) == 1
    assert [found.name for found in race.record.schemes] == ["serial"] and not race.record.is_complete
    assert "unfinished schemes are left out" in race.report.read_text()


def test_what_cannot_race_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"workers": 1}, "--workers 1: a race is of several workers"),
        ({"algorithm": "dqn"}, "learns no table"),
        ({"discount": 2.0}, "discount is 2.0"),
        ({"stepsize": 1}, "no setting 'stepsize'"),
    )
    for values, words in refused:
        with pytest.raises(QfleetError, match=words):
            qfleet.race("GridWorld-4", out=tmp_path / "race", **values)
    assert not (tmp_path / "race").exists()
