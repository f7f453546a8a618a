"""Small runs of tables that use everything whose state a checkpoint has to hold."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

import qfleet
from qfleet import MDP

SMALL: dict[str, Any] = {
    "algorithm": "tree-backup",
    "steps": 60_000,
    "learning_rate": 1.0,
    "learning_rate_schedule": "visits",
    "walkers": 24,
    "checkpoint_every_steps": 7000,
    "evaluate_every_steps": 20_000,
    "evaluation_episodes": 2,
    "final_episodes": 3,
    "max_evaluation_steps": 50,
    "seed": 5,
}
"""Epsilon falls over the first half; every pair has a rate of its own; returns are of several steps."""

TOPOLOGIES: dict[str, dict[str, Any]] = {
    "serial": {"topology": "serial"},
    "averaged": {"topology": "averaged", "workers": 2, "sync_every_steps": 500, "sync_growth": 1.05},
    "visits": {"topology": "averaged", "workers": 3, "sync_every_steps": 500, "merge": "visits"},
    "delta": {"topology": "averaged", "workers": 2, "sync_every_steps": 500, "merge": "delta"},
    "partitioned": {"topology": "partitioned", "workers": 2, "sync_every_steps": 500},
    "shards": {"topology": "partitioned", "workers": 3, "sync_every_steps": 300, "keep_shards": True},
    "overlapped": {"topology": "partitioned", "workers": 3, "sync_every_steps": 300, "overlap": True},
}


@cache
def uneven() -> MDP:
    """Sixty states, of which those with small numbers are visited more often."""
    random = np.random.default_rng(4)
    columns, weights = np.empty((240, 5), int), np.arange(60, 0, -1) ** 3
    for row in columns:
        row[:] = random.choice(60, 5, replace=False, p=weights / weights.sum())
    chances, rows = random.dirichlet(np.ones(5), 240).ravel(), np.repeat(np.arange(240), 5)
    transitions = sparse.csr_matrix((chances, (rows, columns.ravel())), shape=(240, 60))
    return MDP.from_arrays(transitions, random.random((60, 4)), max_episode_steps=1000, name="Uneven")


def make_uneven() -> MDP:
    """For "module:NAME"."""
    return uneven()


def train_small(environment: Any, out: Path, name: str, **changes: Any) -> qfleet.Run:
    on_status = changes.pop("on_status", lambda status: None)
    return qfleet.train(environment, out=out, on_status=on_status, **(SMALL | TOPOLOGIES[name] | changes))


def stop_after(steps: int):
    """Asks to stop once that many steps are made."""

    def on_status(status: qfleet.Status) -> bool | None:
        return False if status.steps >= steps else None

    return on_status
