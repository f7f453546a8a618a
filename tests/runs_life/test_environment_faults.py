"""Environments of topologies of services that raise, hang, leak or give no numbers: their members are replaced."""

import os
import re
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qfleet.errors import FleetError, NonFiniteError, QfleetError
from tests import clock
from tests.child_processes import children
from tests.environments.scripted import ScriptedEnv
from tests.runs_life.service_runs import WHO_ACTS, WITH_DUES, assert_owed, faulty, soaked


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

    def __init__(self) -> None:
        super().__init__(index=0)

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
    assert children() <= before or backend == "ray"
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
    assert_owed(topology, run.summary["steps"], run.summary["updates"], 26)


class Leaking(ScriptedEnv):
    """Keeps eight megabytes a step, in a process that may have so much more; where it is only looked at, any.

    What the process has when the environment is made may be some hundred megabytes more than it needs later (kernels
    were compiled).
    """

    def __init__(self, owner: int, num_bytes: int) -> None:
        super().__init__(index=0)
        self._kept: list[bytes] = []
        if os.getpid() != owner:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, resource.RLIM_INFINITY))

    def step(self, action):
        self._kept.append(bytes(8 << 20))  # which are never touched
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
    """After 256 steps in an actor, each of which makes 500, or one of them more."""
    owner = os.getpid()

    def leaking() -> Leaking:
        return Leaking(owner, 1 << 31)

    run = faulty(tmp_path / "run", topology, leaking, backend, steps=1000, restarts=8)
    assert 1 <= run.summary["restarts"] <= 5 and 1000 <= run.summary["steps"] < 1000 + 4 * 64
    told = rf"{WHO_ACTS[topology]} \d .*(failed with|could not run \w+:) MemoryError.*new workers"
    assert re.search(told, capfd.readouterr().err)


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
def test_a_budget_spent_on_errors_ends_the_run_with_the_last(backend: str, tmp_path: Path) -> None:
    """On Ray its notes say on which machine, too."""
    before = children()
    with pytest.raises((RuntimeError, FleetError), match="the robot fell over") as raised:
        faulty(tmp_path / "run", "ape-x", Raising, backend, steps=20_000, restarts=1)
    assert children() <= before or backend == "ray"
    where = f" on {os.uname().nodename}" if backend == "ray" else ""
    assert re.search(rf"In actor \d \(process \d+{where}\)", "\n".join(raised.value.__notes__))


def test_restarts_on_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="--backend threads cannot replace workers"):
        faulty(tmp_path / "run", "ape-x", backend="threads", restarts=1)
