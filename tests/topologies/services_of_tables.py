"""Runs of tables under topologies of services, which end by their steps and evaluate once."""

from pathlib import Path
from typing import Any

import qfleet

ONCE: dict[str, Any] = {
    "algorithm": "q-learning",
    "until_return": float("inf"),
    "evaluation_episodes": 2,
    "final_episodes": 2,
}
LAKE: dict[str, Any] = ONCE | {"discount": 0.9}


def train(environment: Any, out: Path, **settings: Any) -> qfleet.Run:
    return qfleet.train(environment, out=out, **settings)
