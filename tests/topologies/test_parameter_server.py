"""The parameter server's members: what a shard does with gradients, and sources that make them; REINFORCE under it."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import qfleet
from qfleet.assembly import Problem
from qfleet.deep.gradient_sources import ReplayGradients, RolloutGradients
from qfleet.deep.members import NetworkRun
from qfleet.deep.optimizer import adam, global_norm
from qfleet.deep.rollouts import Rollouts, final_epsilon
from qfleet.errors import QfleetError
from qfleet.network_members import NetworkMembers
from qfleet.topologies.parameter_server import ParameterServerWorker, ServedRun
from qfleet.topologies.parameter_shard import ParameterShard, PushedGradient
from qfleet.topologies.step_rules import AdamRule
from qfleet.tuned import default_settings, with_values
from tests.child_processes import children, newest

POLICY, BASELINE = AdamRule(0, 7, 0.01, 1e-8, 2.0), AdamRule(7, 12, 0.1, 1e-8, np.inf)
TINY: dict[str, Any] = {
    "algorithm": "reinforce",
    "steps": 2000,
    "learning_rate": 3e-3,
    "hidden_sizes": (8,),
    "episodes_per_update": 3,
    "num_envs": 4,
    "until_return": float("inf"),
    "evaluate_every_steps": 1000,
    "evaluation_episodes": 2,
    "final_episodes": 2,
}


def pushed(gradient: np.ndarray, number: int, shards: list[ParameterShard]) -> None:
    norms = tuple(global_norm(gradient[rule.first : rule.last]) for rule in (POLICY, BASELINE))
    cuts = np.array_split(gradient, len(shards))
    for shard, part in zip(shards, cuts, strict=True):
        version = shard.pull().report.version
        shard.push(PushedGradient((0, 0), number, version, part, norms))


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_shards_move_each_part_by_its_own_rule_however_they_are_cut(num_shards: int) -> None:
    generator = np.random.default_rng(0)
    initial = generator.normal(size=12).astype(np.float32)
    ends = np.cumsum([0] + [len(part) for part in np.array_split(initial, num_shards)])
    shards = [
        ParameterShard(part, int(first), (POLICY, BASELINE), 100)
        for part, first in zip(np.array_split(initial, num_shards), ends, strict=False)
    ]
    wanted, moments = initial.copy(), np.zeros((2, 12), np.float32)
    for number in range(1, 6):
        gradient = generator.normal(scale=3, size=12).astype(np.float32)
        pushed(gradient, number, shards)
        for rule in (POLICY, BASELINE):
            part = slice(rule.first, rule.last)
            rate, limit = rule.learning_rate, rule.max_gradient_norm
            first, second = moments[0, part], moments[1, part]
            adam(wanted[part], gradient[part], first, second, number, rate, 1e-8, limit)
    found = np.concatenate([shard.pull().values for shard in shards])
    np.testing.assert_allclose(found, wanted, rtol=2e-6)
    assert np.abs(found - initial).min() > 1e-3


def served(kind: str, rank: int = 0) -> tuple[ServedRun, NetworkRun]:
    settings = with_values(
        default_settings("CartPole-v1", "async-n-step"),
        {"hidden_sizes": (8,), "num_envs": 2, "learning_starts_steps": 20, "exploration_steps": 100},
    )
    problem = Problem(settings, "CartPole-v1")
    members = NetworkMembers(problem, problem.description())
    initial = members.make_learner(settings.dqn, 0).publish()
    run, num = NetworkRun(members, settings.dqn, 0, 10_000, 1, initial), len(initial.vector)
    make = partial(RolloutGradients, run, 5, 2) if kind == "rollouts" else partial(ReplayGradients, run, 16)
    return ServedRun(make, initial, (AdamRule(0, num, 1e-3, 1e-8, np.inf),), num, 10_000, 1), run


def test_a_rollouts_gradient_is_the_learners_at_the_parameters_pulled() -> None:
    told, run = served("rollouts")
    worker = ParameterServerWorker(told, 2, 0, 0)
    worker.start()
    shards = [
        ParameterShard(part, first, told.rules, 100)
        for part, first in zip(np.array_split(told.initial.vector, 2), (0, 29), strict=True)
    ]
    learner = run.members.make_learner(run.share, 0)
    learner.warm_start(run.initial)
    rollouts = Rollouts(run.members, _with_final_epsilon(run), 5, 2, 0)
    rollouts.start()
    pulled = [shard.pull() for shard in shards]
    for number in range(1, 5):
        computed = worker.compute(1000, 0.0, *pulled)
        _, batch = rollouts.gather(learner, 1000)
        assert batch is not None and computed.contribution.num_steps == len(batch.rewards)
        wanted = learner.gradient(batch)
        pushes = [worker.gradient(shard) for shard in range(2)]
        found = [push for push in pushes if push is not None]
        vector = np.concatenate([push.values for push in found])
        assert vector.tobytes() == wanted.vector.tobytes() and found[0].number == number
        assert found[0].norms == (global_norm(wanted.vector),)
        learner.apply(wanted)
        pulled = [shard.push(push) for shard, push in zip(shards, found, strict=True)]
        np.testing.assert_allclose(
            np.concatenate([part.values for part in pulled]), learner.publish().vector, rtol=1e-5
        )
        given = learner.publish()
        given.vector[:] = np.concatenate([part.values for part in pulled])
        learner.set_parameters(given)
    worker.close()
    rollouts.close()


def _with_final_epsilon(run: NetworkRun) -> Any:
    return replace(run.share, exploration_final=final_epsilon(run.seed, 0))


@pytest.mark.parametrize("kind", ["replay", "rollouts"])
def test_a_worker_that_goes_on_from_a_state_computes_what_the_other_would(kind: str) -> None:
    told, _ = served(kind)
    slices = [ParameterShard(told.initial.vector, 0, told.rules, 100).pull()]
    first, second = (ParameterServerWorker(told, 1, 0, 0) for _ in range(2))
    first.start()
    for _ in range(12):
        first.compute(16, 0.0, *slices)
    second.load_state(first.save_state())
    for _ in range(5):
        assert first.compute(16, 0.0, *slices).contribution == second.compute(16, 0.0, *slices).contribution
        one, other = first.gradient(0), second.gradient(0)
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.values.tobytes() == other.values.tobytes()
    assert first.gradient(0) is not None
    first.close()
    second.close()


# REINFORCE


@pytest.mark.parametrize("changes", [{}, {"baseline": False}, {"max_gradient_norm": 0.5}], ids=str)
def test_one_worker_and_one_shard_make_the_updates_of_serial(changes: dict[str, Any], tmp_path: Path) -> None:
    serial = qfleet.train("CartPole-v1", topology="serial", out=tmp_path / "serial", **TINY | changes)
    run = qfleet.train("CartPole-v1", topology="parameter-server", out=tmp_path / "run", **TINY | changes)
    assert run.summary["steps"] == serial.summary["steps"] >= 2000
    assert run.summary["updates"] == serial.summary["updates"] > 5
    np.testing.assert_allclose(run.values, serial.values, rtol=1e-4, atol=1e-6)


def test_it_resumes_and_begins_from_other_values(tmp_path: Path) -> None:
    settings: dict[str, Any] = TINY | {"topology": "parameter-server", "workers": 2, "num_shards": 3}
    first = qfleet.train(
        "CartPole-v1", out=tmp_path / "run", on_status=lambda status: status.steps < 900, **settings
    )
    assert first.summary["stopped_by"] == "callback" and first.summary["steps"] < 2000
    whole = qfleet.resume(tmp_path / "run")
    assert whole.summary["steps"] >= 2000 and whole.summary["updates"] > first.summary["updates"]
    given: dict[str, Any] = settings | {"warm_start": str(tmp_path / "run"), "learning_rate": 0.0}
    warm = qfleet.train("CartPole-v1", out=tmp_path / "warm", **given)
    np.testing.assert_array_equal(warm.values, whole.values)


def test_a_users_module_is_a_policy_too(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    settings: dict[str, Any] = TINY | {"topology": "parameter-server", "steps": 500, "hidden_sizes": ()}
    run = qfleet.train("CartPole-v1", network=network, out=tmp_path / "run", **settings)
    assert run.summary["updates"] > 0 and np.isfinite(run.evaluate(episodes=2).mean)


def test_a_killed_worker_of_reinforce_is_replaced(tmp_path: Path) -> None:
    before, killed = children(), []

    def kill(status: qfleet.Status) -> None:
        if not killed and status.steps > 1000:
            killed.append(newest(children() - before))
            os.kill(killed[0], signal.SIGKILL)

    settings: dict[str, Any] = TINY | {"topology": "parameter-server", "workers": 2, "steps": 20_000}
    settings |= {"backend": "processes", "restarts": 1}
    run = qfleet.train("CartPole-v1", out=tmp_path / "run", on_status=kill, **settings)
    assert killed and run.summary["restarts"] == 1 and run.summary["steps"] >= 20_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_shards": 0}, "num_shards is 0"),
        ({"block_steps": 8}, "block_steps"),
        ({"backend": "mpi"}, "mpi"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = TINY | {"topology": "parameter-server"} | changes
    with pytest.raises(QfleetError, match=said):
        qfleet.train("CartPole-v1", out=tmp_path / "run", **settings)


def test_reinforce_solves_cart_pole_by_defaults(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"algorithm": "reinforce", "topology": "parameter-server", "workers": 2}
    run = qfleet.train("CartPole-v1", out=tmp_path / "run", **settings)
    assert run.summary["evaluation"]["mean_return"] >= 475, run.summary
