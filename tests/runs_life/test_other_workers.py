"""Runs that go on with another number of workers: the table is divided anew, and nothing learned is lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.errors import QfleetError
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.folder import RunFolder

TOTAL, HALF = 400_000, 200_000
RUN: dict[str, Any] = {
    "steps": TOTAL,
    "workers": 2,
    "seed": 3,
    "learning_rate": 1.0,
    "learning_rate_schedule": "visits",
    "exploration": "uniform",
    "discount": 0.8,
    "sync_every_steps": 5_000,
    "checkpoint_every_steps": HALF,
    "final_episodes": 5,
    "until_return": float("inf"),
    "walkers": 16,
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "averaged": {"topology": "averaged"},
    "double": {"topology": "averaged", "algorithm": "double-q-learning"},
    "partitioned": {"topology": "partitioned"},
    "shards": {"topology": "partitioned", "keep_shards": True},
}


def _begun(out: Path, environment: str, settings: dict[str, Any]) -> Path:
    settings = RUN | settings
    if settings["topology"] == "serial":
        del settings["sync_every_steps"]
    qfleet.train(environment, out=out, on_status=lambda status: status.steps < HALF, **settings)
    return out


def _saved(run: Path) -> dict[str, Any]:
    loaded = CheckpointStore(RunFolder.open(run).checkpoints, 3, print).load_newest()
    assert loaded is not None
    return loaded[1]


def _visits(state: dict[str, Any]) -> np.ndarray:
    workers = [state["topology"]["workers"][str(rank)] for rank in range(len(state["topology"]["workers"]))]
    return np.concatenate([worker["learner"]["visits"] for worker in workers], axis=1)


@pytest.mark.parametrize("name", [*TOPOLOGIES])
@pytest.mark.parametrize("workers", [1, 3])
def test_more_or_fewer_workers_go_on_where_the_others_were(name: str, workers: int, tmp_path: Path) -> None:
    path = _begun(tmp_path / "run", "GridWorld-8", TOPOLOGIES[name])
    half = _saved(path)
    made = half["topology"]["num_steps"]
    assert HALF <= made < 1.1 * HALF and len(half["topology"]["workers"]) == 2
    qfleet.resume(path, workers=workers, on_status=lambda status: False)
    soon = _saved(path)
    if name in ("partitioned", "shards"):
        grown = _visits(soon).astype(np.int64) - _visits(half)
        assert (grown >= 0).all() and grown.sum() == soon["topology"]["num_steps"] - made
        assert len(soon["tables"]["shards"]) == workers
    run = qfleet.resume(path)
    assert run.summary["steps"] == TOTAL and run.summary["workers"] == workers
    assert len(_saved(path)["topology"]["workers"]) == workers
    first = qfleet.train("GridWorld-8", out=tmp_path / "whole", **(RUN | TOPOLOGIES[name]))
    assert run.summary["max_error"] < max(0.02, 2 * first.summary["max_error"])
    learners = [worker["learner"] for worker in _saved(path)["topology"]["workers"].values()]
    made = sum(int(learner["walkers"]["age"][learner["residents"]].sum()) for learner in learners)
    assert abs(made - TOTAL) <= 16 * workers


def test_episodes_that_begin_anew_are_others_than_the_first(tmp_path: Path) -> None:
    path = _begun(tmp_path / "run", "GridWorld-8", TOPOLOGIES["averaged"])
    random = _saved(path)["topology"]["workers"]["0"]["learner"]["walkers"]["random"]
    qfleet.resume(path, workers=3, on_status=lambda status: False)
    again = _saved(path)["topology"]["workers"]["0"]["learner"]["walkers"]["random"]
    assert not set(random.tolist()) & set(again.tolist())


def test_environments_stepped_in_python(tmp_path: Path) -> None:
    settings = {"topology": "averaged", "backend": "processes", "stepping": "python", "walkers": 1}
    settings |= {"steps": 20_000, "checkpoint_every_steps": 10_000, "sync_every_steps": 1_000}
    path = tmp_path / "run"
    qfleet.train(
        "FrozenLake-v1", out=path, on_status=lambda status: status.steps < 10_000, **(RUN | settings)
    )
    run = qfleet.resume(path, workers=3)
    assert run.summary["steps"] == 20_000 and run.summary["workers"] == 3
    seeded = [_saved(path)["topology"]["workers"][str(rank)]["learner"]["num_seeded"] for rank in range(3)]
    assert all((numbers >= 10_000).all() for numbers in seeded)


def test_what_has_one_worker_stays_with_one(tmp_path: Path) -> None:
    path = _begun(
        tmp_path / "run", "GridWorld-8", {"topology": "serial", "workers": 1, "sync_every_steps": 0}
    )
    with pytest.raises(QfleetError, match="--workers 2: --topology serial has 1 worker"):
        qfleet.resume(path, workers=2)
    assert json.loads((path / "config.json").read_text())["run"]["workers"] == 1
