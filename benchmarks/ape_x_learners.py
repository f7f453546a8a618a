"""Updates a second of Ape-X with one learner and with two, for a small network and for a large one.

Every learner has one core, and so much is learned from every step that the actor hardly works: what is measured is how
fast the learners are, with all that goes between them. Run as `python benchmarks/ape_x_learners.py threads` or
`processes`. Nothing has to be reached: two learners are slower where a network is small.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import qfleet

WARM_UPDATES, SECONDS, ROUNDS = 40, 4.0, 3
COMMON: dict[str, Any] = {
    "topology": "ape-x",
    "workers": 2,
    "steps": 10**8,
    "updates_per_step": 8.0,
    "block_steps": 8,
    "num_envs": 2,
    "learning_starts_steps": 600,
    "replay_capacity": 20_000,
    "evaluate_every_steps": 10**8,
    "checkpoint_every_steps": 10**8,
    "evaluation_episodes": 1,
    "final_episodes": 1,
    "max_evaluation_steps": 10,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "2 x 64 units, batches of 64": {"hidden_sizes": (64, 64), "batch_size": 64},
    "2 x 1024 units, batches of 512": {"hidden_sizes": (1024, 1024), "batch_size": 512},
}


def updates_per_second(num_learners: int, **settings: Any) -> float:
    """Of one run, once it is under way."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with qfleet.begin("CartPole-v1", out=out, num_learners=num_learners, **COMMON, **settings) as run:
            since, before = 0.0, 0
            for status in run:
                now = time.monotonic()
                if not since and status.updates >= WARM_UPDATES:
                    since, before = now, status.updates
                if since and now >= since + SECONDS:
                    return (status.updates - before) / (now - since)
    raise AssertionError("the run is longer than that")


def main(backend: str) -> int:
    """One and two learners in turn; the best of each."""
    for name, settings in NETWORKS.items():
        best = {1: 0.0, 2: 0.0}
        for _ in range(ROUNDS):
            for num_learners in best:
                rate = updates_per_second(num_learners, backend=backend, **settings)
                best[num_learners] = max(best[num_learners], rate)
        one, two = best.values()
        print(f"{backend}, {name}: {one:,.0f} updates/s by one learner, {two:,.0f} by two: {two / one:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "threads"))
