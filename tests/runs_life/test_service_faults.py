"""Members of topologies of services that are killed, stopped, hang or fail: others take their places."""

import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.backends.process_handle import ProcessHandle
from qfleet.errors import FleetError, NonFiniteError, QfleetError
from tests import clock
from tests.backends import ray_cluster
from tests.child_processes import children
from tests.environments.scripted import ScriptedEnv
from tests.runs_life.tiny import TINY

MEMBERS = {
    "pooled": ["agent 0", "agent 1"],
    "asynchronous": ["replay 0", "agent 0", "agent 1"],
    "parameter-server": ["parameter shard 0", "parameter shard 1", "worker 0", "worker 1"],
    "ape-x": ["replay shard 0", "replay shard 1", "learner 0", "actor 0", "actor 1"],
}
"""In the order in which they are started."""
SHARDS = {"parameter-server": {"num_shards": 2}, "ape-x": {"num_shards": 2}}
NOTICED_AND_BACK_SECONDS = clock.seconds(2 + 5, 30)


def faulty(out: Path, topology: str, environment: Any = "CartPole-v1", **changes: Any) -> qfleet.Run:
    settings: dict[str, Any] = TINY | {"workers": 2, "topology": topology, "backend": "processes"}
    settings |= SHARDS.get(topology, {})
    return qfleet.train(environment, out=out, **(settings | changes))


class Trouble:
    """Sends a signal to one member after another, each time after so many steps."""

    def __init__(self, plan: Sequence[tuple[int, str, int]], topology: str) -> None:
        self._plan, self._members, self._before = list(plan), MEMBERS[topology], children()
        self._ids: dict[str, int] = {}
        self.sent_at = self._heard_at = 0.0
        self.longest_silence = 0.0
        """Seconds between two turns, from the first signal on."""

    @property
    def is_over(self) -> bool:
        return not self._plan

    def __call__(self, status: qfleet.Status) -> None:
        if not self._ids:
            found = sorted(children() - self._before)
            assert len(found) == len(self._members)
            self._ids = dict(zip(self._members, found, strict=True))
        now = time.monotonic()
        if self.sent_at:
            self.longest_silence = max(self.longest_silence, now - self._heard_at)
        self._heard_at = now
        if self._plan and status.steps >= self._plan[0][0]:
            _, member, number = self._plan.pop(0)
            os.kill(self._ids[member], number)
            self.sent_at = now


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
    "topology",
    [
        pytest.param("pooled", marks=pytest.mark.soak),
        pytest.param("asynchronous", marks=pytest.mark.soak),
        "parameter-server",
        "ape-x",
    ],
)
def test_whoever_is_lost_is_replaced_and_the_run_ends_with_the_right_counts(
    topology: str, tmp_path: Path
) -> None:
    before, trouble = children(), Trouble(PLANS[topology], topology)
    run = faulty(tmp_path / "run", topology, steps=4000, restarts=5, on_status=trouble)
    summary = run.summary
    assert trouble.is_over and 0 < trouble.longest_silence < NOTICED_AND_BACK_SECONDS
    assert summary["stopped_by"] == "steps" and summary["restarts"] == len(PLANS[topology])
    assert 4000 <= summary["steps"] < 4000 + 2 * 64
    due = int((summary["steps"] - 200) * 0.25)
    # A gradient may be lost with each worker; Ape-X's learner may run ahead by the limiter's buffer.
    ahead = 2 * 32 * 2 * 0.25 + 16 if topology == "ape-x" else 0
    assert due - 5 <= summary["updates"] <= due + ahead
    assert children() == before


@pytest.mark.parametrize(
    ("topology", "member", "number"),
    [
        ("ape-x", "actor 0", signal.SIGKILL),
        ("parameter-server", "parameter shard 1", signal.SIGSTOP),
        pytest.param("pooled", "agent 1", signal.SIGSTOP, marks=pytest.mark.soak),
        pytest.param("asynchronous", "replay 0", signal.SIGKILL, marks=pytest.mark.soak),
        pytest.param("ape-x", "learner 0", signal.SIGSTOP, marks=pytest.mark.soak),
    ],
)
def test_without_a_budget_the_run_ends_and_says_who_is_lost(
    topology: str, member: str, number: int, tmp_path: Path
) -> None:
    before, trouble = children(), Trouble([(700, member, number)], topology)
    with pytest.raises(FleetError) as raised:
        faulty(tmp_path / "run", topology, steps=10**7, on_status=trouble)
    assert trouble.is_over and time.monotonic() - trouble.sent_at < clock.seconds(2 + 2, 20)
    said = str(raised.value)
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "was stopped"
    assert re.match(rf"{member} \(process \d+\) {how}", said) and "\n" not in said
    assert children() == before


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
                time.sleep(20)
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


def _all_but(kept: list[tuple[str, type[Moody]]]) -> list[Any]:
    """Every topology with every mood; those not kept are proofs in full."""
    pairs = [(topology, mood) for topology in MEMBERS for mood in (Raising, Hanging, NotFinite)]
    return [pytest.param(*pair, marks=[] if pair in kept else pytest.mark.soak) for pair in pairs]


@pytest.mark.parametrize(
    ("topology", "environment"),
    _all_but([("pooled", NotFinite), ("ape-x", Raising)]),
)
def test_an_environment_that_goes_wrong_costs_a_restart(
    topology: str, environment: type[Moody], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = children()
    # A member is late after 4 s here, and starting one takes not much less.
    run = faulty(tmp_path / "run", topology, environment, steps=3200, restarts=4, stall_timeout_seconds=4.0)
    assert 1 <= run.summary["restarts"] <= 2
    assert 3200 <= run.summary["steps"] < 3200 + 2 * 64
    assert children() == before
    member = MEMBERS[topology][-1].split()[0]
    said = {
        Raising: "failed with RuntimeError: the robot fell over",
        Hanging: "has not finished",
        NotFinite: "failed with NonFiniteError",
    }[environment]
    assert re.search(rf"{member} \d {said}.*new workers go on", capfd.readouterr().err)


@pytest.mark.parametrize("topology", MEMBERS)
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


def test_a_spent_budget_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    before = children()
    with pytest.raises((RuntimeError, FleetError), match="the robot fell over"):
        faulty(tmp_path / "run", "ape-x", Raising, steps=20_000, restarts=1)
    assert children() == before


def test_restarts_on_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="--backend threads cannot replace workers"):
        faulty(tmp_path / "run", "ape-x", backend="threads", restarts=1)


class RandomTrouble:
    """A thread that kills or stops members at random moments, each some seconds after the last."""

    def __init__(self, topology: Any, number: int, seed: int) -> None:
        self._topology, self._left, self._random = topology, number, np.random.default_rng(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._left:
            time.sleep(self._random.uniform(6.0, 9.0))
            crews = self._topology._crews
            handles = [handle for crew in crews for handle in crew._handles]
            process_id = _process_id(handles[self._random.integers(len(handles))])
            with suppress(ProcessLookupError):  # it is being replaced just now
                os.kill(process_id, self._random.choice([signal.SIGKILL, signal.SIGSTOP]))
                self._left -= 1


def _process_id(handle: Any) -> int:
    return handle._process.pid if isinstance(handle, ProcessHandle) else handle.process_id


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("backend", ["processes", "ray"])
@pytest.mark.parametrize("topology", MEMBERS)
def test_members_lost_at_random_moments(topology: str, backend: str, seed: int, tmp_path: Path) -> None:
    """Also between turns: while it is evaluated, saved, or somebody else is being replaced."""
    settings: dict[str, Any] = TINY | {"workers": 2, "topology": topology, "backend": backend}
    settings |= SHARDS.get(topology, {}) | {"steps": 10**7, "restarts": 12}
    if backend == "ray":
        settings["address"] = ray_cluster.address()
    with qfleet.begin("CartPole-v1", out=tmp_path / "run", **settings) as training:
        trainee: Any = training.trainee
        trouble, silence, heard_at = None, 0.0, 0.0
        steps_when_over = 0
        for status in training:
            now = time.monotonic()
            silence, heard_at = max(silence, now - heard_at if heard_at else 0.0), now
            trouble = trouble or RandomTrouble(trainee.topology, 4, seed)
            if trouble.is_over and not steps_when_over:
                steps_when_over = status.steps
            if steps_when_over and status.steps > steps_when_over + 4000:
                training.stop("enough")
        assert 1 <= trainee.summary()["restarts"] <= 6
        due = (trainee.num_steps - 200) * 0.25
        ahead = 2 * 32 * 2 * 0.25 + 16
        assert due - ahead - 64 <= trainee.num_updates <= due + ahead
        assert silence < clock.seconds(2 + 5, 60)
