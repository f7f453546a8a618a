"""Members of topologies of services that are killed or stopped: others take their places, or it is said who it was."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qfleet.errors import FleetError
from tests import clock
from tests.backends import ray_cluster
from tests.child_processes import children
from tests.runs_life.service_runs import SERVICES, WITH_DUES, assert_owed, settings_of, soaked
from tests.runs_life.trouble import SIGNALS, Trouble, troubled

PLANS = {
    "pooled": [(700, "agent 0", signal.SIGKILL), (2000, "agent 1", signal.SIGSTOP)],
    "asynchronous": [
        (700, "replay 0", signal.SIGKILL),
        (1500, "agent 0", signal.SIGKILL),
        (2500, "agent 1", signal.SIGSTOP),
    ],
    "parameter-server": [
        (700, "worker 0", signal.SIGKILL),
        (1500, "parameter shard 1", signal.SIGKILL),
        (2500, "parameter shard 0", signal.SIGSTOP),
    ],
    "ape-x": [
        (700, "replay shard 0", signal.SIGKILL),
        (1500, "learner 0", signal.SIGKILL),
        (2500, "actor 1", signal.SIGSTOP),
    ],
}


@pytest.mark.parametrize(
    ("topology", "backend"),
    soaked(
        [("parameter-server", "processes")],
        [(topology, backend) for backend in ("processes", "ray") for topology in WITH_DUES],
    ),
)
def test_whoever_is_lost_is_replaced_and_the_run_ends_with_the_right_counts(
    topology: str, backend: str, tmp_path: Path
) -> None:
    before, plan = children(), list(PLANS[topology])
    settings = settings_of(topology, backend, steps=4000, restarts=5)
    with troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble):
        for status in training:
            trouble.see(status)
            if plan and status.steps >= plan[0][0]:
                trouble.send(*plan.pop(0)[1:])
        summary = training.summary(None)
    assert not plan and summary["stopped_by"] == "steps" and summary["restarts"] == len(PLANS[topology])
    assert 4000 <= summary["steps"] < 4000 + 2 * 64
    assert_owed(topology, summary["steps"], summary["updates"])
    assert children() <= before or backend == "ray"


def plan_of(trouble: Trouble, turn: int) -> list[tuple[str, signal.Signals]]:
    """Every member once, with one signal or the other."""
    return [(member, SIGNALS[(place + turn) % 2]) for place, member in enumerate(trouble.members())]


@pytest.mark.parametrize(
    ("topology", "backend", "turn"),
    soaked(
        [("ape-x", "processes", 0)],
        [
            (topology, backend, turn)
            for backend in ("processes", "ray")
            for topology in SERVICES
            for turn in (0, 1)
        ],
        pytest.mark.alone,
    ),
)
def test_every_member_is_lost_at_a_random_moment(
    topology: str, backend: str, turn: int, tmp_path: Path
) -> None:
    """Also between turns: while it is evaluated, or saved. Noticed, sampling and learning again have bounds each."""
    settings = settings_of(topology, backend, steps=10**8, restarts=12)
    with troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble):
        for status in training:
            trouble.see(status)
            if topology == "parameter-server":
                assert_none_twice(training.trainee)
            if status.updates > 50 and not trouble.has_begun:
                trouble.begin(plan_of(trouble, turn), seed=turn)
            if trouble.is_over:
                training.stop("enough")
        summary = training.summary(None)
    trouble.check()
    assert len(trouble.losses) == summary["restarts"] >= 2
    if topology in WITH_DUES:
        assert summary["updates"] <= (summary["steps"] - 200) * 0.25 + 64 + 16  # some may be owed still
    told = {signal.SIGKILL: "SIGKILL|died|ended|lost", signal.SIGSTOP: "stopped"}
    for loss, line in zip(trouble.losses, trouble.said, strict=True):
        assert re.match(
            rf"{loss.member} \(process {loss.process_id}.*({told[loss.number]}).*new workers go on", line
        )


PAIRS = {
    "pooled": ("agent 0", "agent 1"),
    "asynchronous": ("agent 0", "replay 0"),
    "parameter-server": ("worker 1", "parameter shard 0"),
    "ape-x": ("learner 0", "replay shard 1"),
}


GIVERS = {"asynchronous": "replay 0", "parameter-server": "parameter shard 1", "ape-x": "replay shard 1"}
"""Whom those that learn wait for."""


@pytest.mark.parametrize(
    ("topology", "backend"),
    soaked(
        [("ape-x", "ray")],
        [(topology, backend) for backend in ("processes", "ray") for topology in GIVERS],
    ),
)
def test_a_stopped_giver_is_noticed_in_time_though_the_driver_asks_those_who_wait_for_it(
    topology: str, backend: str, tmp_path: Path
) -> None:
    """Parameters and measures, in every turn: the question waits behind an update, and that for the stopped one."""
    settings = settings_of(topology, backend, steps=10**8, restarts=1)
    with troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble):
        trainee: Any = training.trainee
        for status in training:
            trouble.see(status)
            if status.updates > 50 and not trouble.losses:
                trouble.send(GIVERS[topology], signal.SIGSTOP)
            trainee.topology.parameters()
            trainee.topology.measured()
            if trouble.losses and trouble.losses[0].is_over:
                training.stop("enough")
    trouble.check()


@pytest.mark.soak
@pytest.mark.parametrize("delay_seconds", [0.0, 0.4])
@pytest.mark.parametrize("backend", ["processes", "ray"])
@pytest.mark.parametrize("topology", PAIRS)
def test_a_second_is_lost_while_the_first_is_replaced(
    topology: str, backend: str, delay_seconds: float, tmp_path: Path
) -> None:
    settings = settings_of(topology, backend, steps=10**8, restarts=2)
    with troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble):
        for status in training:
            trouble.see(status)
            if status.updates > 50 and not trouble.has_begun:
                trouble.begin_together(PAIRS[topology], delay_seconds)
            if trouble.is_over and all(loss.is_over for loss in trouble.losses):
                training.stop("enough")
        assert training.summary(None)["restarts"] == 2
    for loss in trouble.losses:
        assert max(loss.learning_at, loss.back_at) - loss.sent_at < clock.seconds(2 + 5 + 5, 60)


def assert_none_twice(trainee: Any) -> None:
    """Since the shards' last snapshot, the server has made no more updates than workers have computed gradients."""
    topology = trainee.topology
    server, snapshot = topology._server, topology._snapshot[0]
    applied = server.version - snapshot["version"] + server.num_dropped - snapshot["dropped"]
    assert applied <= topology._num_computed - topology._computed_at_snapshot


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["processes", "ray"])
@pytest.mark.parametrize("topology", SERVICES)
def test_runs_with_losses_learn_as_well_as_others(topology: str, backend: str, tmp_path: Path) -> None:
    """CartPole's threshold is what runs without losses reach on every seed (test_service_runs.py)."""
    settings: dict[str, Any] = {"topology": topology, "backend": backend, "workers": 2, "restarts": 20}
    settings |= {"address": ray_cluster.address()} if backend == "ray" else {}
    with troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble):
        for status in training:
            trouble.see(status)
            if status.updates > 200 and not trouble.has_begun:
                trouble.begin(plan_of(trouble, 0), seed=7)
        training.trainee.load_values(training.load_best())
        found = training.play(100, 12345)
        summary = training.summary(found)
    sys.stdout.write(f"{topology} on {backend}: {summary['restarts']} restarts, {summary['evaluation']}\n")
    assert summary["restarts"] >= 1 and found is not None and found.mean >= 475


@pytest.mark.parametrize(
    ("topology", "member", "number", "backend"),
    soaked(
        [
            ("ape-x", "actor 0", signal.SIGKILL, "processes"),
            ("parameter-server", "parameter shard 1", signal.SIGSTOP, "processes"),
        ],
        [
            (*case, backend)
            for backend in ("processes", "ray")
            for case in (
                ("ape-x", "actor 0", signal.SIGKILL),
                ("parameter-server", "parameter shard 1", signal.SIGSTOP),
                ("pooled", "agent 1", signal.SIGSTOP),
                ("asynchronous", "replay 0", signal.SIGKILL),
                ("ape-x", "learner 0", signal.SIGSTOP),
            )
        ],
    ),
)
def test_without_a_budget_the_run_ends_and_says_who_is_lost(
    topology: str, member: str, number: signal.Signals, backend: str, tmp_path: Path
) -> None:
    """On Ray also on which machine."""
    before = children()
    settings = settings_of(topology, backend, steps=10**8, restarts=0)
    with (
        pytest.raises(FleetError) as raised,
        troubled("CartPole-v1", tmp_path, settings) as (training, trouble),
    ):
        for status in training:
            if status.steps >= 700 and not trouble.losses:
                trouble.send(member, number)
    assert time.monotonic() - trouble.losses[0].sent_at < clock.seconds(2 + 2, 20)
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "was stopped"
    where = rf" on {os.uname().nodename}\) .*(died|lost|ended|stopped)" if backend == "ray" else rf"\) {how}"
    said = str(raised.value)
    assert re.match(rf"{member} \(process \d+{where}", said) and "\n" not in said
    assert children() <= before or backend == "ray"


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["processes", "ray"])
@pytest.mark.parametrize("topology", PAIRS)
def test_a_budget_spent_on_losses_ends_the_run_with_the_last(
    topology: str, backend: str, tmp_path: Path
) -> None:
    settings = settings_of(topology, backend, steps=10**8, restarts=1)
    with (
        pytest.raises(FleetError) as raised,
        troubled("CartPole-v1", tmp_path / "run", settings) as (training, trouble),
    ):
        for status in training:
            trouble.see(status)
            if status.updates > 50 and all(loss.is_over for loss in trouble.losses):
                trouble.send(PAIRS[topology][len(trouble.losses)], signal.SIGKILL)
    where = f" on {os.uname().nodename}" if backend == "ray" else ""
    assert re.match(
        rf"{PAIRS[topology][1]} \(process \d+{where}\).*; all 1 restarts are spent \(--restarts\)$",
        str(raised.value),
    )
