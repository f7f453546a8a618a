"""Tables under parameter-server and asynchronous: resumed, interrupted, exported, and with members that are killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qfleet
from qfleet.errors import QfleetError
from tests.child_processes import by_age, children
from tests.topologies.services_of_tables import LAKE

STEPS = {"parameter-server": 4_000_000, "asynchronous": 600_000}
OWN: dict[str, dict[str, Any]] = {
    "parameter-server": {"num_shards": 2, "learning_rate_schedule": "rescaled-linear"},
    "asynchronous": {"learning_rate_schedule": "visits"},
}
MEMBERS = {
    "parameter-server": ["parameter shard 0", "parameter shard 1", "worker 0", "worker 1"],
    "asynchronous": ["replay 0", "agent 0", "agent 1"],
}
"""In the order in which they are started."""
TOPOLOGIES = list(OWN)


def train(topology: str, out: Path, **changes: Any) -> qfleet.Run:
    settings = LAKE | {"exploration": "uniform", "workers": 2, "steps": STEPS[topology]} | OWN[topology]
    return qfleet.train("FrozenLake-v1", topology=topology, out=out, **settings | changes)


def stop_after(steps: int) -> Callable[[qfleet.Status], bool]:
    return lambda status: status.steps < steps


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_stopped_run_goes_on_to_its_exact_values(topology: str, tmp_path: Path) -> None:
    half = STEPS[topology] // 2
    first = train(topology, tmp_path / "run", on_status=stop_after(half))
    assert first.summary["stopped_by"] == "callback" and half <= first.summary["steps"] < STEPS[topology]
    with pytest.raises(QfleetError, match="goes on with as many workers as it had, 2"):
        qfleet.resume(tmp_path / "run", workers=3)
    whole = qfleet.resume(tmp_path / "run")
    assert whole.summary["steps"] == STEPS[topology] and whole.summary["max_error"] < 0.1
    assert whole.summary["updates"] > first.summary["updates"] > 0
    assert whole.summary["episodes"] > 1.5 * first.summary["episodes"]
    again = qfleet.load_run(tmp_path / "run")
    np.testing.assert_array_equal(again.values, whole.values)
    assert qfleet.load(tmp_path / "run").values.shape == (16, 4)
    whole.export(tmp_path / "table.npz")
    with np.load(tmp_path / "table.npz") as exported:
        assert any(array.shape == (16, 4) for array in exported.values())


@pytest.mark.parametrize(
    ("topology", "member"),
    [
        ("parameter-server", "worker 1"),
        ("parameter-server", "parameter shard 0"),
        ("asynchronous", "agent 1"),
        ("asynchronous", "replay 0"),
    ],
)
def test_whoever_is_killed_is_replaced_and_the_values_still_come(
    topology: str, member: str, tmp_path: Path
) -> None:
    before, killed = children(), []

    def kill(status: qfleet.Status) -> None:
        if not killed and status.steps > STEPS[topology] // 4:
            members = dict(zip(MEMBERS[topology], by_age(children() - before), strict=True))
            killed.append(members[member])
            os.kill(killed[0], signal.SIGKILL)

    run = train(topology, tmp_path / "run", backend="processes", restarts=1, on_status=kill)
    assert killed and run.summary["restarts"] == 1
    assert run.summary["steps"] == STEPS[topology] and run.summary["max_error"] < 0.1
    assert children() == before


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_every_role_does_is_shown(topology: str, tmp_path: Path) -> None:
    seen: list[qfleet.Status] = []
    train(topology, tmp_path / "run", on_status=seen.append)
    roles = {role.name for status in seen if status.fleet is not None for role in status.fleet.roles}
    expected = {"parameter-server": {"worker", "parameter shard"}, "asynchronous": {"agent", "replay"}}
    assert roles == expected[topology] | {"driver"}


def test_without_restarts_the_run_ends_and_says_who_was_lost(tmp_path: Path) -> None:
    before: set[int] = children()

    def kill(status: qfleet.Status) -> None:
        """Only where nobody is missing: the others go on until a loss is noticed."""
        alive = by_age(children() - before)
        if len(alive) == len(MEMBERS["asynchronous"]):
            os.kill(alive[-1], signal.SIGKILL)

    with pytest.raises(QfleetError, match="agent 1"):
        train("asynchronous", tmp_path / "run", backend="processes", on_status=kill)
