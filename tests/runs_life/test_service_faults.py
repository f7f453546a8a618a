"""Members of topologies of services that are killed, stopped, hang or fail: others take their places."""

import os
import re
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.errors import FleetError, NonFiniteError, QfleetError
from tests import clock
from tests.backends import ray_cluster
from tests.child_processes import children
from tests.environments.scripted import ScriptedEnv
from tests.runs_life.tiny import TINY
from tests.runs_life.trouble import SIGNALS, Trouble, troubled

SERVICES = ["pooled", "asynchronous", "async-n-step", "parameter-server", "ape-x"]
WITH_DUES = [topology for topology in SERVICES if topology != "async-n-step"]
"""Whose updates are owed for steps."""
WHO_ACTS = {"parameter-server": "worker", "ape-x": "actor"} | dict.fromkeys(SERVICES[:2], "agent")
_ROLLOUTS = {
    "algorithm": "dqn",
    "steps": 3000,
    "num_envs": 4,
    "hidden_sizes": (16,),
    "until_return": float("inf"),
    "evaluate_every_steps": 10_000,
    "evaluation_episodes": 2,
    "final_episodes": 2,
}


def settings_of(topology: str, backend: str = "processes", **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = dict(_ROLLOUTS if topology == "async-n-step" else TINY)
    settings |= {"workers": 2, "topology": topology, "backend": backend}
    settings |= {"num_shards": 2} if topology in ("parameter-server", "ape-x") else {}
    settings |= {"address": ray_cluster.address()} if backend == "ray" else {}
    return settings | changes


def faulty(
    out: Path, topology: str, environment: Any = "CartPole-v1", backend: str = "processes", **changes: Any
) -> qfleet.Run:
    on_status = changes.pop("on_status", lambda status: None)
    return qfleet.train(
        environment, out=out, on_status=on_status, **settings_of(topology, backend, **changes)
    )


def soaked(kept: list[Any], every: list[Any]) -> list[Any]:
    """All of them; those that are not kept are proofs in full."""
    return [pytest.param(*one, marks=[] if one in kept else pytest.mark.soak) for one in every]


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


def assert_owed(topology: str, num_steps: int, num_updates: int) -> None:
    """A gradient may be lost with each worker; Ape-X's learner may run ahead by the limiter's buffer."""
    due = int((num_steps - 200) * 0.25)
    ahead = 2 * 32 * 2 * 0.25 + 16 if topology == "ape-x" else 0
    assert due - 5 <= num_updates <= due + ahead


@pytest.mark.parametrize(
    ("topology", "backend"),
    soaked(
        [("parameter-server", "processes"), ("ape-x", "processes")],
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
    assert children() == before or backend == "ray"


def plan_of(trouble: Trouble, turn: int) -> list[tuple[str, signal.Signals]]:
    """Every member once, with one signal or the other."""
    return [(member, SIGNALS[(place + turn) % 2]) for place, member in enumerate(trouble.members())]


@pytest.mark.parametrize(
    ("topology", "backend", "turn"),
    soaked(
        [("parameter-server", "processes", 1), ("ape-x", "processes", 0)],
        [
            (topology, backend, turn)
            for backend in ("processes", "ray")
            for topology in SERVICES
            for turn in (0, 1)
        ],
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
        due = (summary["steps"] - 200) * 0.25
        assert due - 64 - 100 <= summary["updates"] <= due + 64 + 16
    told = {signal.SIGKILL: "SIGKILL|died|ended|lost", signal.SIGSTOP: "stopped"}
    for loss, line in zip(trouble.losses, trouble.said, strict=True):
        assert re.match(
            rf"{loss.member} \(process {loss.process_id}.*({told[loss.number]}).*new workers go on", line
        )


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
    assert children() == before or backend == "ray"


class Moody(ScriptedEnv):
    """Goes wrong in its 300th step: its actor, which has four, in the 1200th."""

    def __init__(self, mood: str) -> None:
        super().__init__(index=0)
        self.mood, self.num_steps = mood, 0

    def step(self, action):
        self.num_steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self.num_steps == 300:
            if self.mood == "raises":
                raise RuntimeError("the robot fell over")
            if self.mood == "hangs":
                time.sleep(30)
            reward = np.nan if self.mood == "nan" else reward
        return observation, reward, terminated, truncated, info


class Raising(Moody):
    def __init__(self) -> None:
        super().__init__("raises")


class Hanging(Moody):
    def __init__(self) -> None:
        super().__init__("hangs")


class NotFinite(Moody):
    def __init__(self) -> None:
        super().__init__("nan")


class Rare(ScriptedEnv):
    """Raises once in a thousand steps, by its own random numbers."""

    def step(self, action):
        if self.np_random.random() < 1e-3:
            raise RuntimeError("the robot fell over")
        return super().step(action)


MOODS = (Raising, Hanging, NotFinite)


@pytest.mark.parametrize(
    ("topology", "environment", "backend"),
    soaked(
        [("pooled", NotFinite, "processes"), ("ape-x", Raising, "processes")],
        [
            (topology, mood, backend)
            for backend in ("processes", "ray")
            for topology in WITH_DUES
            for mood in MOODS
        ],
    ),
)
def test_an_environment_that_goes_wrong_costs_a_restart(
    topology: str, environment: type[Moody], backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = children()
    changes: dict[str, Any] = {"steps": 3200, "restarts": 4}
    if environment is Hanging:
        # Starting a member takes not much less.
        changes["stall_timeout_seconds"] = clock.seconds(4.0, 12.0)
    run = faulty(tmp_path / "run", topology, environment, backend, **changes)
    assert 1 <= run.summary["restarts"] <= 2
    assert 3200 <= run.summary["steps"] < 3200 + 2 * 64
    assert children() == before or backend == "ray"
    said = {
        Raising: "failed with RuntimeError: the robot fell over",
        Hanging: "has not finished",
        NotFinite: "failed with NonFiniteError",
    }[environment]
    assert re.search(rf"{WHO_ACTS[topology]} \d {said}.*new workers go on", capfd.readouterr().err)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["processes", "ray"])
@pytest.mark.parametrize("topology", WITH_DUES)
def test_an_environment_that_raises_once_in_a_thousand_steps(
    topology: str, backend: str, tmp_path: Path
) -> None:
    """Ten times in ten thousand steps, on average."""
    run = faulty(tmp_path / "run", topology, Rare, backend, steps=10_000, restarts=60)
    assert 1 <= run.summary["restarts"] <= 26 and run.summary["steps"] >= 10_000
    assert_owed(topology, run.summary["steps"], run.summary["updates"] + 26)


class Leaking(ScriptedEnv):
    """Keeps a megabyte a step, in a process that may have so much more and no more; where it is only looked at, any."""

    def __init__(self, owner: int, num_bytes: int) -> None:
        super().__init__(index=0)
        self._kept: list[bytearray] = []
        if os.getpid() != owner:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, resource.RLIM_INFINITY))

    def step(self, action):
        self._kept.append(bytearray(1 << 20))
        return super().step(action)


@pytest.mark.parametrize(
    ("topology", "backend"),
    soaked(
        [("ape-x", "processes")],
        [(topology, backend) for backend in ("processes", "ray") for topology in WITH_DUES],
    ),
)
def test_an_environment_that_leaks_costs_a_restart_when_its_memory_is_full(
    topology: str, backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After 256 steps in an actor, each of which makes 350."""
    owner = os.getpid()

    def leaking() -> Leaking:
        return Leaking(owner, 1 << 28)

    run = faulty(tmp_path / "run", topology, leaking, backend, steps=700, restarts=4)
    assert 1 <= run.summary["restarts"] <= 3 and 700 <= run.summary["steps"] < 700 + 2 * 64
    assert re.search(rf"{WHO_ACTS[topology]} \d failed with MemoryError.*new workers", capfd.readouterr().err)


@pytest.mark.parametrize("topology", WITH_DUES)
def test_on_threads_an_environments_own_error_ends_the_run(topology: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the robot fell over"):
        faulty(tmp_path / "one", topology, Raising, backend="threads")
    with pytest.raises(NonFiniteError, match="reward"):
        faulty(tmp_path / "two", topology, NotFinite, backend="threads")


@pytest.mark.parametrize("topology", ["ape-x", pytest.param("asynchronous", marks=pytest.mark.soak)])
def test_on_threads_a_hung_environment_is_named(topology: str, tmp_path: Path) -> None:
    """The replay waits for what the actor is to give, and the learner for the replay: neither is what is told."""
    started = time.monotonic()
    with pytest.raises(FleetError, match=r"(actor|agent) \d has not finished .* longer --stall-timeout-sec"):
        faulty(tmp_path / "run", topology, Hanging, backend="threads", stall_timeout_seconds=1.5)
    assert time.monotonic() - started < clock.seconds(1.5 + 3 + 8, 30)


@pytest.mark.parametrize("backend", ["processes", pytest.param("ray", marks=pytest.mark.soak)])
def test_a_spent_budget_ends_the_run_with_the_cause(backend: str, tmp_path: Path) -> None:
    before = children()
    with pytest.raises((RuntimeError, FleetError), match="the robot fell over"):
        faulty(tmp_path / "run", "ape-x", Raising, backend, steps=20_000, restarts=1)
    assert children() == before or backend == "ray"


def test_restarts_on_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="--backend threads cannot replace workers"):
        faulty(tmp_path / "run", "ape-x", backend="threads", restarts=1)
