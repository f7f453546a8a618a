"""Async-n-step: one worker's updates are the learner's, several share one network, and a lost one is replaced."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import qfleet
from qfleet.assembly import Problem
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.learner import Learner
from qfleet.deep.members import NetworkRun
from qfleet.deep.rollouts import Rollouts
from qfleet.errors import QfleetError
from qfleet.network_members import NetworkMembers
from qfleet.topologies.async_n_step import AsyncNStepConfig, AsyncNStepWorker, Memory, make_memory
from qfleet.tuned import default_settings, with_values
from tests.child_processes import children, newest
from tests.runs_life.tiny import assert_same_bits

TINY: dict[str, Any] = {
    "topology": "async-n-step",
    "workers": 2,
    "steps": 3000,
    "hidden_sizes": (8,),
    "num_envs": 4,
    "target_update_every_updates": 10,
    "until_return": float("inf"),
    "evaluate_every_steps": 1500,
    "evaluation_episodes": 2,
    "final_episodes": 2,
}
LONGER: dict[str, Any] = TINY | {"steps": 40_000, "evaluate_every_steps": 40_000}
"""Of several spans."""
MODULE = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
NORMED = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def network_run(network: nn.Module | None, num_workers: int) -> NetworkRun:
    settings = with_values(
        default_settings("CartPole-v1", "async-n-step"),
        {"hidden_sizes": (8,), "num_envs": 2, "target_update_every_updates": 3},
    )
    problem = Problem(settings, "CartPole-v1", network)
    members = NetworkMembers(problem, problem.description())
    initial = members.make_learner(settings.dqn, 0).publish()
    return NetworkRun(members, settings.dqn, 0, 10_000, num_workers, initial)


def workers_of(run: NetworkRun, fleet: ThreadFleet) -> tuple[Memory, list[AsyncNStepWorker]]:
    memory = make_memory(fleet, len(run.initial.vector), run.num_workers)
    memory.vectors[:2] = run.initial.vector
    config = AsyncNStepConfig()
    made = [AsyncNStepWorker(run, config, 2, memory, rank, 0) for rank in range(run.num_workers)]
    return memory, made


def vectors_of(learner: Learner) -> list[bytes]:
    state = learner.save_state()
    if "moments" in state:
        return [state["parameters"].tobytes(), state["target"].tobytes(), state["moments"].tobytes()]
    moments = state["first_moment"].tobytes() + state["second_moment"].tobytes()
    return [state["parameters"].tobytes(), state["target"].tobytes(), moments]


@pytest.mark.parametrize("network", [None, MODULE], ids=["compiled", "module"])
def test_updates_are_the_learners_gradient_and_step_on_the_same_batches(network: nn.Module | None) -> None:
    """Of two workers in turn: the memory holds what one learner alone would, bit for bit, its target too."""
    run, fleet = network_run(network, 2), ThreadFleet()
    memory, made = workers_of(run, fleet)
    alone = run.members.make_learner(run.config, 0)
    alone.warm_start(run.initial)
    rollouts = Rollouts(run.members, run.config, 5, 2, 0)
    rollouts.start()
    for number in range(10):
        _, batch = rollouts.gather(alone, 100)
        assert batch is not None
        made[number % 2].update(batch)
        alone.apply(alone.gradient(batch))
        found = [memory.vectors[0], memory.vectors[1], memory.vectors[2:]]
        assert [vector.tobytes() for vector in found] == vectors_of(alone)
    assert memory.updates.tolist() == [5, 5] and memory.target_moves[0] == 3
    assert not np.array_equal(memory.vectors[0], run.initial.vector)
    for worker in made:
        worker.close()
    rollouts.close()
    fleet.close()


def test_updates_of_threads_at_the_same_time_are_all_counted_and_none_is_lost_whole() -> None:
    """Each makes its updates with a batch of its own; the target moves once for every three, however they meet."""
    run, fleet = network_run(None, 2), ThreadFleet()
    memory, made = workers_of(run, fleet)
    for worker in made:
        worker.start()
    threads = [threading.Thread(target=worker.work, args=(1000, 60.0)) for worker in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert memory.steps.tolist() == [1000, 1000]
    assert (memory.updates >= 100).all()  # rollouts of at most 10 steps
    assert abs(memory.target_moves[0] - memory.num_updates // 3) <= 1
    assert np.isfinite(memory.vectors).all()
    for worker in made:
        worker.close()
    fleet.close()


def test_a_span_ends_by_the_clock_with_everything_counted() -> None:
    run, fleet = network_run(None, 1), ThreadFleet()
    memory, (worker,) = workers_of(run, fleet)
    worker.start()
    worked = worker.work(10**6, 0.0)
    assert memory.steps.tolist() == [10] and memory.updates.tolist() == [1] and worked.statistics
    assert worker.work(7, 60.0).statistics and memory.steps.tolist() == [18]  # to the end of a vector step
    worker.close()
    fleet.close()


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_it_runs_to_its_steps(backend: str, tmp_path: Path) -> None:
    run = qfleet.train("CartPole-v1", out=tmp_path / "run", backend=backend, **TINY)
    assert run.summary["stopped_by"] == "steps" and 3000 <= run.summary["steps"] < 3010
    assert 3000 / 20 <= run.summary["updates"] <= 3000 / 10


def test_a_users_module_learns_in_shared_memory(tmp_path: Path) -> None:
    settings: dict[str, Any] = TINY | {"hidden_sizes": ()}
    run = qfleet.train("CartPole-v1", network=NORMED, out=tmp_path / "run", **settings)
    assert run.summary["updates"] >= 150 and np.isfinite(run.evaluate(episodes=2).mean)


def test_one_worker_stopped_and_resumed_ends_in_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = LONGER | {"workers": 1}
    qfleet.train("CartPole-v1", out=tmp_path / "whole", **settings)
    first = qfleet.train(
        "CartPole-v1", out=tmp_path / "run", on_status=lambda status: status.steps < 1000, **settings
    )
    assert first.summary["stopped_by"] == "callback" and first.summary["steps"] < 40_000
    qfleet.resume(tmp_path / "run")
    assert_same_bits(tmp_path / "whole", tmp_path / "run")


def test_several_workers_resume_where_they_stopped(tmp_path: Path) -> None:
    with qfleet.begin("CartPole-v1", out=tmp_path / "run", **LONGER) as training:
        for _ in training:
            training.stop("seen enough")
        state = training.trainee.save_state()["topology"]
    resumed = qfleet.resume(tmp_path / "run")
    assert state["memory"]["steps"].sum() < 40_000 <= resumed.summary["steps"] < 40_010
    assert resumed.summary["updates"] > state["memory"]["updates"].sum()


def test_a_killed_worker_is_replaced_and_what_was_learned_stays(tmp_path: Path) -> None:
    before, killed = children(), []

    def kill(status: qfleet.Status) -> None:
        if not killed and status.steps > 1000:
            killed.append(newest(children() - before))
            os.kill(killed[0], signal.SIGKILL)

    settings: dict[str, Any] = TINY | {"backend": "processes", "restarts": 1, "steps": 200_000}
    run = qfleet.train("CartPole-v1", out=tmp_path / "run", on_status=kill, **settings)
    assert killed and run.summary["restarts"] == 1
    assert 200_000 <= run.summary["steps"] < 200_010 and run.summary["updates"] >= 10_000 - 1
    assert not children() - before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout_steps": 0}, "rollout_steps is 0; it must be at least 1"),
        ({"stall_timeout_seconds": 0}, "stall_timeout_seconds is 0; it must be above 0"),
        ({"backend": "mpi"}, "--topology async-n-step does not run with --backend mpi"),
        (
            {"device": "cuda"},
            "--device cuda: --topology async-n-step shares its network in the host's memory",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = TINY | changes
    with pytest.raises(QfleetError, match=said):
        qfleet.train("CartPole-v1", out=tmp_path / "run", **settings)


def test_cart_pole_is_solved_by_defaults(tmp_path: Path) -> None:
    run = qfleet.train("CartPole-v1", topology="async-n-step", workers=2, seed=1, out=tmp_path / "run")
    assert run.summary["evaluation"]["mean_return"] >= 475, run.summary


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_cart_pole_is_solved_by_defaults_with_any_seed(seed: int, tmp_path: Path) -> None:
    run = qfleet.train("CartPole-v1", topology="async-n-step", workers=2, seed=seed, out=tmp_path / "run")
    assert run.summary["evaluation"]["mean_return"] >= 475 and run.summary["seconds"] <= 60, run.summary


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_cart_pole_is_solved_on_processes(seed: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"topology": "async-n-step", "workers": 2, "backend": "processes"}
    run = qfleet.train("CartPole-v1", seed=seed, out=tmp_path / "run", **settings)
    assert run.summary["evaluation"]["mean_return"] >= 475, run.summary


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_cart_pole_is_solved_on_ray_by_way_of_a_parameter_server(seed: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"topology": "async-n-step", "workers": 2, "backend": "ray"}
    run = qfleet.train("CartPole-v1", seed=seed, out=tmp_path / "run", **settings)
    assert run.summary["evaluation"]["mean_return"] >= 475, run.summary


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_what_is_kept_is_what_was_evaluated(backend: str, tmp_path: Path) -> None:
    """Workers go on learning while others play: what there is afterwards is not what was played."""
    settings = TINY | {"backend": backend, "steps": 10**7, "evaluate_every_steps": 10**7}
    with qfleet.begin("CartPole-v1", out=tmp_path / "run", **settings) as training:
        trainee, turns = training.trainee, iter(training)
        assert next(turns).steps > 0 and trainee.evaluate(5, 1, lambda: False) is not None
        evaluated = trainee.evaluated_state()["parameters"].copy()
        deadline = time.monotonic() + 20
        while np.array_equal(trainee.values_state()["parameters"], evaluated):
            assert time.monotonic() < deadline, "nobody has gone on"
            next(turns)
        assert np.array_equal(trainee.evaluated_state()["parameters"], evaluated)
        assert trainee.evaluate(5, 1, lambda: False) is not None
        assert not np.array_equal(trainee.evaluated_state()["parameters"], evaluated)
