"""When a table's run ends, what it then says and gives, and what it may begin from."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.errors import QfleetError
from tests.cli.conftest import finish, start
from tests.runs_life.faulty_worlds import endless
from tests.runs_life.tables import train_small, uneven

GRID: dict[str, Any] = {
    "algorithm": "q-learning",
    "learning_rate": 0.5,
    "walkers": 24,
    "discount": 0.9,
    "exploration_final": 0.3,
    "final_episodes": 3,
    "evaluation_episodes": 2,
}
EVERYWHERE = [
    {"topology": "serial"},
    {"topology": "shared", "workers": 2},
    {"topology": "averaged", "workers": 2},
    {"topology": "partitioned", "workers": 2},
    {"topology": "partitioned", "workers": 3, "keep_shards": True},
]


def on_grid(out: Path, **settings: Any) -> qfleet.Run:
    return qfleet.train(
        "GridWorld-16", out=out, **(GRID | {"steps": 20_000_000, "until_return": np.inf} | settings)
    )


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_until_error(where: dict[str, Any], tmp_path: Path) -> None:
    run = on_grid(tmp_path / "run", until_error=1e-6, **where)
    summary = run.summary
    assert summary["stopped_by"] == "until_error" and summary["max_error"] <= 1e-6
    assert 0 < summary["steps"] < 20_000_000 and summary["optimal_return"] == 1.0
    assert summary["evaluation"]["mean_return"] == 1.0
    json.dumps(summary)


@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_until_change(where: dict[str, Any], tmp_path: Path) -> None:
    run = on_grid(tmp_path / "run", until_change=1e-9, **where)
    assert run.summary["stopped_by"] == "until_change" and run.summary["steps"] < 20_000_000
    assert run.summary["max_error"] < 1e-5 and run.summary["rounds"] >= 2


def test_a_round_that_the_driver_cuts_short_does_not_end_the_run(tmp_path: Path) -> None:
    """Rounds are as long as they are said to be, wherever turns end: short ones would change nothing by chance."""
    run = on_grid(tmp_path / "run", until_change=1e-9, block_steps=333_333, steps=20_000_000)
    assert run.summary["steps"] % 333_333 == 0 and run.summary["rounds"] == run.summary["steps"] / 333_333


@pytest.mark.parametrize("where", EVERYWHERE[:4], ids=str)
def test_episodes(where: dict[str, Any], tmp_path: Path) -> None:
    run = on_grid(tmp_path / "run", episodes=300, **where)
    assert run.summary["stopped_by"] == "episodes" and 300 <= run.summary["episodes"] < 60_000


@pytest.mark.parametrize("where", [EVERYWHERE[0], EVERYWHERE[4]], ids=str)
def test_until_return(where: dict[str, Any], tmp_path: Path) -> None:
    run = on_grid(tmp_path / "run", until_return=1.0, evaluate_every_steps=200_000, **where)
    assert run.summary["stopped_by"] == "until_return" and run.summary["evaluation"]["mean_return"] == 1.0
    again = qfleet.resume(tmp_path / "run")
    assert again.summary["stopped_by"] == "until_return" and again.summary["steps"] == run.summary["steps"]
    assert again.summary["evaluation"] == run.summary["evaluation"]


def test_until_error_without_an_exact_solution_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any]
    for settings in ({}, {"exact": "no"}):
        with pytest.raises(QfleetError, match="--until-error needs the exact solution") as raised:
            qfleet.train(endless(), out=tmp_path / "run", until_error=0.1, algorithm="q-learning", **settings)
        assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_the_program_prints_one_object(tmp_path: Path) -> None:
    done = finish(
        start(
            tmp_path,
            "train",
            "GridWorld-16",
            "--json",
            "--topology",
            "partitioned",
            "--workers",
            2,
            "--backend",
            "processes",
            "--steps",
            400_000,
            "--out",
            "run",
            "--walkers",
            24,
        )
    )
    assert done.code == 0, done
    summary = json.loads(done.out)
    assert {
        "steps",
        "max_error",
        "optimal_return",
        "imbalance_before",
        "imbalance_after",
        "parked_fraction",
        "sent_bytes_per_round",
        "rows_of_workers",
        "stopped_by",
        "evaluation",
        "rounds",
    } <= set(summary)
    assert summary["steps"] == 400_000 and sum(summary["rows_of_workers"]) == 256
    assert 0 < summary["parked_fraction"] <= 1 and summary["max_error"] > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_warm_start(tmp_path: Path) -> None:
    """The values of another run, whatever its topology, are there in every worker; they are hardly learned from."""
    first = on_grid(tmp_path / "first", until_error=1e-9, topology="partitioned", workers=2)
    shards = on_grid(
        tmp_path / "shards", until_error=1e-9, topology="partitioned", workers=3, keep_shards=True
    )
    for number, where in enumerate(EVERYWHERE):
        for source in (first, shards):
            out = tmp_path / f"{number}-{source.path.name}"
            run = on_grid(out, warm_start=str(source.path), steps=2000, learning_rate=1e-9, **where)
            assert run.summary["max_error"] <= 1e-8, where
    with pytest.raises(
        QfleetError, match="a table of 256 states and 4 actions; this environment has 64 and 4"
    ):
        qfleet.train("GridWorld-8", out=tmp_path / "other", warm_start=str(first.path), steps=2000)
    assert not (tmp_path / "other").exists()


def test_shards_serve_a_policy_and_files_and_never_a_table(tmp_path: Path) -> None:
    kept = train_small(uneven(), tmp_path / "kept", "shards")
    merged = train_small(uneven(), tmp_path / "merged", "shards", keep_shards=False)
    assert kept.summary["rows_of_workers"] == merged.summary["rows_of_workers"] != [20, 20, 20]
    for name in ("max_error", "evaluation", "imbalance_before", "imbalance_after", "episodes"):
        assert kept.summary[name] == merged.summary[name], name
    assert kept.summary["imbalance_before"] > 1.3 > 1.2 > kept.summary["imbalance_after"]
    for whole in (
        lambda: kept.values,
        lambda: kept.agent().values,
        lambda: kept.export(tmp_path / "out.npz"),
    ):
        with pytest.raises(QfleetError, match="left in its 3 shards") as raised:
            whole()
        assert "\n" not in str(raised.value)
    agents = kept.agent(), merged.agent(), qfleet.load(kept.path, environment=uneven())
    for state in range(60):
        one, two, three = (agent.q_values(state) for agent in agents)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert kept.evaluate(20, seed=3).mean == merged.evaluate(20, seed=3).mean
    for run in (kept, merged):
        run.export(run.path / "out.csv")
    with (kept.path / "out.csv").open() as one, (merged.path / "out.csv").open() as two:
        by_state = [sorted(csv.reader(file)) for file in (one, two)]
    assert by_state[0] == by_state[1] and len(by_state[0]) == 61
