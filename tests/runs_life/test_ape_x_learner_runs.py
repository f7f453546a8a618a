"""Runs of Ape-X with several learners: counts, equal bits in the end, losses, stopping and going on, and learning."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import qfleet
from qfleet.errors import FleetError, QfleetError
from tests.backends import ray_cluster
from tests.runs_life.test_service_runs import Normalized, assert_counts, learn_cart_pole, tiny
from tests.runs_life.tiny import TINY
from tests.runs_life.trouble import process_id_of, troubled

PARAMETERS = ["parameters", "target", "first_moment", "second_moment", "moments"]


def ape_x_of(training: Any) -> Any:
    return training.trainee.topology


def assert_equal_learners(training: Any, num_learners: int) -> None:
    """Networks, targets and moments, bit for bit, once nothing is under way."""
    ape_x = ape_x_of(training)
    ape_x.save_state()
    first, *others = ape_x._learners.all("save_state")
    assert len(others) == num_learners - 1 and first["updates"] == ape_x.num_updates > 0
    names = [name for name in PARAMETERS if name in first["learner"]]
    assert len(names) >= 3
    for other in others:
        assert other["updates"] == first["updates"]
        for name in names:
            assert np.array_equal(other["learner"][name], first["learner"][name]), name


def settings_of(num_learners: int, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = TINY | {"workers": 2, "topology": "ape-x", "backend": "threads"}
    settings |= {"num_learners": num_learners, "num_shards": 2} | changes
    return settings | ({"address": ray_cluster.address()} if settings["backend"] == "ray" else {})


NETWORKS = {
    "compiled": None,
    "normalized": Normalized(),
    "dropout": nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.Linear(16, 2)),
}


@pytest.mark.parametrize(
    ("num_learners", "network", "backend"),
    [
        (3, "compiled", "threads"),
        (2, "normalized", "threads"),
        (2, "dropout", "threads"),
        pytest.param(3, "dropout", "processes", marks=pytest.mark.soak),
        pytest.param(2, "compiled", "ray", marks=pytest.mark.soak),
    ],
)
def test_learners_are_equal_in_the_end_and_counts_are_right(
    num_learners: int, network: str, backend: str, tmp_path: Path
) -> None:
    """Modules have running means of their own parts, but the same parameters."""
    settings = settings_of(num_learners, backend=backend)
    settings |= {} if network == "compiled" else {"dueling": False, "hidden_sizes": ()}
    with qfleet.begin("CartPole-v1", network=NETWORKS[network], out=tmp_path / "run", **settings) as training:
        for _ in training:
            pass
        assert_equal_learners(training, num_learners)
        counts = {"steps": training.trainee.num_steps, "updates": training.trainee.num_updates}
    assert_counts(counts, "ape-x")


@pytest.mark.soak
def test_losses_leave_them_equal(tmp_path: Path) -> None:
    """A learner: all go back to the snapshot. A shard: all go on from where the first one is."""
    plan = [(700, "_learners", 1), (1500, "_shards", 0), (2300, "_learners", 0)]
    settings = settings_of(2, backend="processes", restarts=4, steps=4000)
    with qfleet.begin("CartPole-v1", out=tmp_path / "run", **settings) as training:
        for status in training:
            if plan and status.steps >= plan[0][0]:
                _, crew, number = plan.pop(0)
                os.kill(process_id_of(getattr(ape_x_of(training), crew)._handles[number]), signal.SIGKILL)
        assert not plan and training.trainee.summary()["restarts"] == 3
        assert_equal_learners(training, 2)
        trainee = training.trainee
        due, ahead = (trainee.num_steps - 200) * 0.25, 2 * 32 * 2 * 0.25 + 16
        assert trainee.num_steps >= 4000 and due - 5 <= trainee.num_updates <= due + ahead


def test_without_a_budget_it_says_which_learner_is_lost(tmp_path: Path) -> None:
    settings = settings_of(2, backend="processes", steps=10**7, restarts=0)
    with (
        pytest.raises(FleetError, match=r"^learner 1 \(process \d+\) was killed by SIGKILL"),
        qfleet.begin("CartPole-v1", out=tmp_path / "run", **settings) as training,
    ):
        for status in training:
            if status.updates > 20:
                os.kill(process_id_of(ape_x_of(training)._learners._handles[1]), signal.SIGKILL)
                break
        for _ in training:
            pass


@pytest.mark.parametrize("backend", ["threads", pytest.param("processes", marks=pytest.mark.soak)])
def test_stopped_and_resumed(backend: str, tmp_path: Path) -> None:
    seen: list[int] = []
    changes: dict[str, Any] = {"num_learners": 2, "backend": backend}
    first = tiny(tmp_path / "run", "ape-x", on_status=lambda status: status.steps < 1400, **changes)
    assert first.summary["stopped_by"] == "callback" and first.summary["updates"] > 100
    run = qfleet.resume(tmp_path / "run", on_status=lambda status: seen.append(status.updates))
    assert seen[0] >= first.summary["updates"] and run.summary["stopped_by"] == "steps"
    assert_counts(run.summary, "ape-x")


def test_a_state_makes_all_learners_equal(tmp_path: Path) -> None:
    """That of one is enough for any number of them."""
    with qfleet.begin("CartPole-v1", out=tmp_path / "one", **settings_of(2)) as one:
        for status in one:
            if status.steps > 1000:
                break
        state = one.trainee.save_state()
        updates = one.trainee.num_updates
    with qfleet.begin("CartPole-v1", out=tmp_path / "two", **settings_of(3, seed=6)) as two:
        two.trainee.load_state(state)
        assert two.trainee.num_updates == updates > 0
        assert_equal_learners(two, 3)
        found = ape_x_of(two).save_state()["learner"]["learner"]
        wanted = state["topology"]["learner"]["learner"]
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_learners": 0}, "num_learners is 0; it must be at least 1"),
        ({"num_learners": 17}, "num_learners is 17; every learner is told the gradients of all others"),
        (
            {"num_learners": 8, "batch_size": 7},
            "num_learners is 8, batch_size 7: each needs a transition of every minibatch; at most 7",
        ),
        ({"learner_threads": 17}, "learner_threads is 17, batch_size 16: each needs a transition"),
        (
            {"num_learners": 2, "learner_threads": 2},
            "num_learners is 2, learner_threads 2: several learners have one thread each",
        ),
    ],
)
def test_too_few_and_too_many_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        tiny(tmp_path / "run", "ape-x", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["processes", "ray"])
def test_losses_at_random_moments_leave_them_equal(backend: str, tmp_path: Path) -> None:
    settings = settings_of(3, backend=backend, restarts=12, steps=10**7)
    plan = [
        ("learner 1", signal.SIGKILL),
        ("learner 0", signal.SIGSTOP),
        ("actor 0", signal.SIGKILL),
        ("replay shard 1", signal.SIGSTOP),
    ]
    with troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble):
        for status in training:
            trouble.see(status)
            if status.updates > 50 and not trouble.has_begun:
                trouble.begin(plan, seed=7)
            if trouble.is_over:
                training.stop("enough")
        assert training.trainee.summary()["restarts"] >= 4
        assert_equal_learners(training, 3)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["threads", "processes", "ray"])
def test_two_learners_learn_cart_pole(backend: str, tmp_path: Path) -> None:
    summary = learn_cart_pole(tmp_path / "run", "ape-x", 0, backend=backend, num_learners=2)
    assert summary["evaluation"]["mean_return"] >= 475, summary
