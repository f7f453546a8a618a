"""`qfleet race` as it is typed."""

import json
import signal
import time
from pathlib import Path

import pytest
from conftest import Call, finish, start

from qfleet.runs.race_record import race_from_json

MISTAKES = {
    "race": "race needs a WORLD",
    "race GridWrld-4": "did you mean GridWorld-4?",
    "race Frozenlake8x8-v1": "nearest are FrozenLake8x8-v1",
    "race CartPole-v1": "no table of transitions, which a race needs",
    "race GridWorld-4 --workers 1": "--workers 2 or more works",
    "race GridWorld-4 --workers two": "it takes a whole number",
    "race GridWorld-4 --topology shared": "race has no flag --topology",
    "race GridWorld-4 --stepz 5": "nearest are --steps",
    "race GridWorld-4 --algorithm dqn": "it takes one of q-learning",
    "race GridWorld-4 --n-step 3": "n_step belongs to the algorithm tree-backup",
    "race GridWorld-4 --environment-options slap=1": "slap",
    "race GridWorld-4 --steps -5": "steps is -5",
    "race GridWorld-4 GridWorld-8": "'GridWorld-8'",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(call: Call, typed: str) -> None:
    assert MISTAKES[typed] in call(*typed.split()).complaint
    assert not list(Path().iterdir())


def test_json_is_the_record_and_all_that_is_printed(call: Call) -> None:
    flags = "--steps 200000 --seed 5 --learning-rate 0.2 --json --quiet --environment-options slip=0.1"
    done = call("race", "GridWorld-4", *flags.split())
    assert (done.code, done.err) == (0, "") and done.out.count("\n") == 1
    document = json.loads(done.out)
    report = Path(document.pop("report"))
    record = race_from_json(document)
    assert report.is_file() and report.parent.name.startswith("race-GridWorld-4-5-")
    assert (record.seed, record.steps, len(record.schemes)) == (5, 200_000, 5)
    assert race_from_json(json.loads((report.parent / "race.json").read_text())) == record


def test_people_see_every_scheme_a_table_and_the_finding(call: Call) -> None:
    done = call("race", "GridWorld-4", "--steps", 200_000, "--out", "here")
    assert done.code == 0, done
    for name in ("serial", "shared", "averaged (equal)", "averaged (visits)", "partitioned"):
        assert f"\n{name} " in done.out and f"{name}\n" in done.err
    assert "200k/200k steps" in done.err and "steps/s" in done.err and " left" in done.err
    assert "on 2 workers made" in done.out and done.out.endswith("report  here/report.html\n")
    again = call("race", "GridWorld-4", "--out", "here")
    assert "here is not empty" in again.complaint


def test_an_interrupted_race_ends_cleanly(tmp_path: Path) -> None:
    process = start(tmp_path, "race", "GridWorld-4", "--steps", 40_000_000_000, "--out", "here")
    assert process.stderr is not None
    while "40G steps" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    done = finish(process, 10)
    assert done.code == 130 and "Traceback" not in done.err and not (tmp_path / "here").exists(), done
