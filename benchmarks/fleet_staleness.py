"""Ape-X on CartPole at full speed: how old the parameters are that actors act with, in updates.

The figure is the largest of the 99th percentiles in the run's metrics, each of a two-hundredth of the run.
Run as `python benchmarks/fleet_staleness.py [STEPS [BACKEND ...]]`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from acting_runs import NEVER
from timing import verdict

import qfleet
from qfleet.runs.metrics import read_metrics

NUM_ACTORS, MOST_UPDATES = 2, 400


def largest_staleness(backend: str, steps: int) -> float:
    """Updates."""
    with tempfile.TemporaryDirectory() as folder:
        run = qfleet.train(
            "CartPole-v1",
            topology="ape-x",
            backend=backend,
            workers=NUM_ACTORS,
            steps=steps,
            until_return=float("inf"),
            evaluate_every_steps=NEVER,
            checkpoint_every_steps=NEVER,
            out=f"{folder}/run",
        )
        lines = [line for line in read_metrics(Path(folder) / "run") if "fleet/actor/staleness_p99" in line]
    means = np.mean([line["fleet/actor/staleness"] for line in lines])
    print(
        f"         on {backend}: {run.summary['steps_per_second']:.0f} steps/s, "
        f"{run.summary['updates_per_second']:.0f} updates/s, {means:.0f} updates old on average",
        flush=True,
    )
    return max(line["fleet/actor/staleness_p99"] for line in lines)


def main(steps: int, backends: list[str]) -> bool:
    reached = []
    for backend in backends:
        oldest = largest_staleness(backend, steps)
        name = f"staleness on {backend}, 99th percentile"
        reached.append(verdict(name, oldest, "updates", at_most=MOST_UPDATES))
    return all(reached)


if __name__ == "__main__":
    asked = sys.argv[1:]
    steps = int(asked[0]) if asked else 50_000
    raise SystemExit(0 if main(steps, asked[1:] or ["threads", "processes", "ray"]) else 1)
