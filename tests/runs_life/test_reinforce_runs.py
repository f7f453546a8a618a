"""REINFORCE in the life of a run: serial and data-parallel, on every backend the same, resumed with the same bits."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import qfleet
from qfleet.errors import QfleetError
from tests.child_processes import children, newest
from tests.runs_life.small_worlds import MatchEnv
from tests.runs_life.tiny import assert_same_bits

TINY: dict[str, Any] = {
    "algorithm": "reinforce",
    "steps": 2000,
    "hidden_sizes": (8,),
    "episodes_per_update": 3,
    "num_envs": 4,
    "until_return": float("inf"),
    "evaluate_every_steps": 1000,
    "evaluation_episodes": 2,
    "final_episodes": 2,
    "checkpoint_every_steps": 500,
}
WORKERS = {"serial": 1, "data-parallel": 2}


def tiny(out: Path, topology: str, environment: Any = "CartPole-v1", **changes: Any) -> qfleet.Run:
    settings = TINY | {"topology": topology, "workers": WORKERS[topology]} | changes
    return qfleet.train(environment, out=out, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qfleet.Run]:
    """Runs that were left alone."""
    return {name: tiny(tmp_path_factory.mktemp(name) / "run", name) for name in WORKERS}


@pytest.mark.parametrize("topology", WORKERS)
def test_a_run_ends_with_the_first_update_that_reaches_its_steps(
    topology: str, whole: dict[str, qfleet.Run]
) -> None:
    summary = whole[topology].summary
    assert summary["stopped_by"] == "steps" and 2000 <= summary["steps"] < 2000 + 6 * 500
    assert 0 < summary["updates"] <= summary["episodes"] / (3 * WORKERS[topology])
    assert summary["episodes"] % (3 * WORKERS[topology]) == 0


@pytest.mark.parametrize("topology", WORKERS)
def test_stopped_and_resumed_with_the_same_bits(
    topology: str, whole: dict[str, qfleet.Run], tmp_path: Path
) -> None:
    def stop(status: qfleet.Status) -> bool:
        return status.steps < 900

    first = tiny(tmp_path / "run", topology, on_status=stop)
    assert first.summary["stopped_by"] == "callback" and first.summary["steps"] < 1900
    qfleet.resume(tmp_path / "run")
    assert_same_bits(whole[topology].folder.path, tmp_path / "run")


def test_processes_learn_what_threads_learn(whole: dict[str, qfleet.Run], tmp_path: Path) -> None:
    run = tiny(tmp_path / "run", "data-parallel", backend="processes")
    assert_same_bits(whole["data-parallel"].folder.path, tmp_path / "run")
    assert run.values.tobytes() == whole["data-parallel"].values.tobytes()


def test_a_killed_worker_is_replaced_and_changes_no_bit(whole: dict[str, qfleet.Run], tmp_path: Path) -> None:
    before, killed = children(), []

    def kill(status: qfleet.Status) -> None:
        if not killed and status.steps > 1000:
            killed.append(newest(children() - before))
            os.kill(killed[0], signal.SIGKILL)

    run = tiny(tmp_path / "run", "data-parallel", backend="processes", restarts=1, on_status=kill)
    assert killed and run.summary["restarts"] == 1
    assert run.values.tobytes() == whole["data-parallel"].values.tobytes()
    assert_same_bits(whole["data-parallel"].folder.path, tmp_path / "run")


def test_workers_play_other_episodes_and_know_the_same(tmp_path: Path) -> None:
    settings: dict[str, Any] = TINY | {"topology": "data-parallel", "workers": 2}
    with qfleet.begin("CartPole-v1", out=tmp_path / "run", **settings) as training:
        for _ in training:
            pass
        workers = training.trainee.save_state()["topology"]["workers"]["workers"]
    learners = [workers[rank]["learner"]["learner"] for rank in "01"]
    for name in ("parameters", "first_moment", "second_moment"):
        assert learners[0][name].tobytes() == learners[1][name].tobytes() and np.ptp(learners[0][name]) > 0
    counters = [workers[rank]["learner"]["actor"]["counters"] for rank in "01"]
    assert counters[0][2] != counters[1][2]


@pytest.mark.parametrize("topology", WORKERS)
def test_a_users_module_is_a_policy_too(topology: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))
    run = tiny(tmp_path / "run", topology, network=network, steps=500, hidden_sizes=())
    assert run.summary["updates"] > 0 and np.isfinite(run.evaluate(episodes=2).mean)


def test_a_run_begins_from_another_ones_policy(whole: dict[str, qfleet.Run], tmp_path: Path) -> None:
    given = str(whole["serial"].folder.path)
    run = tiny(tmp_path / "run", "serial", warm_start=given, learning_rate=0.0)
    np.testing.assert_array_equal(run.values, whole["serial"].values)


def test_it_learns_on_one_environment_object(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run", "serial", MatchEnv(), steps=300, num_envs=1)
    assert run.summary["updates"] > 0
    with pytest.raises(QfleetError, match="an environment object is one environment, in this process"):
        tiny(tmp_path / "other", "data-parallel", MatchEnv(), steps=300)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"topology": "overlapped"}, "serial, data-parallel, parameter-server do"),
        ({"dueling": True}, "dueling is on"),
        ({"until_change": 0.1}, "--until-change is for tables"),
        ({"workers": 2}, "--topology serial has 1 worker; data-parallel, parameter-server have more"),
        ({"batch_size": 8}, "batch_size"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        settings: dict[str, Any] = TINY | {"topology": "serial"} | changes
        qfleet.train("CartPole-v1", out=tmp_path / "run", **settings)


@pytest.mark.parametrize("topology", WORKERS)
def test_cart_pole_is_solved_by_defaults(topology: str, tmp_path: Path) -> None:
    run = qfleet.train(
        "CartPole-v1",
        algorithm="reinforce",
        topology=topology,
        workers=WORKERS[topology],
        out=tmp_path / "run",
    )
    assert run.summary["evaluation"]["mean_return"] >= 475, run.summary
