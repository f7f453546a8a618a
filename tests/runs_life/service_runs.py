"""Small, fast runs of topologies of services, whose members are to be lost."""

from pathlib import Path
from typing import Any

import pytest

import qfleet
from tests.backends import ray_cluster
from tests.runs_life.tiny import TINY

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


def soaked(kept: list[Any], every: list[Any], *marks: pytest.MarkDecorator) -> list[Any]:
    """All of them; those that are not kept are proofs in full, with these marks."""
    return [pytest.param(*one, marks=[] if one in kept else [pytest.mark.soak, *marks]) for one in every]


def assert_owed(topology: str, num_steps: int, num_updates: int, num_lost: int = 5) -> None:
    """A gradient may be lost with each worker; Ape-X's learner may run ahead by the limiter's buffer."""
    due = int((num_steps - 200) * 0.25)
    ahead = 2 * 32 * 2 * 0.25 + 16 if topology == "ape-x" else 0
    assert due - num_lost <= num_updates <= due + ahead
