"""MinAtar Breakout, the same steps and updates: Ape-X on threads against serial.

Both have the settings tuned for MinAtar and draw by priority, as Ape-X does; nothing is evaluated or saved before the
end.
Seconds are those of the metrics, from the start of the run to its last step and update.
Run as `python benchmarks/fleet_minatar.py [STEPS [ROUNDS]]`.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from acting_runs import NEVER
from timing import verdict

import qfleet
from qfleet.runs.metrics import read_metrics

ENVIRONMENT = "MinAtar/Breakout-v1"
NUM_ACTORS = 2


def seconds_of(topology: str, steps: int, seed: int, **settings: Any) -> float:
    """From the start to the last step's line in the metrics."""
    with tempfile.TemporaryDirectory() as folder:
        run = qfleet.train(
            ENVIRONMENT,
            topology=topology,
            backend="threads",
            steps=steps,
            seed=seed,
            priority_exponent=0.6,
            evaluate_every_steps=NEVER,
            checkpoint_every_steps=NEVER,
            evaluation_episodes=1,
            max_evaluation_steps=2000,
            until_return=float("inf"),
            out=f"{folder}/run",
            **settings,
        )
        lines = [line for line in read_metrics(Path(folder) / "run") if "time/fps" in line]
    summary, seconds = run.summary, lines[-1]["seconds"]
    print(
        f"         {topology}: {seconds:.1f} s, {summary['steps']:,} steps, {summary['updates']:,} updates, "
        f"return {summary['evaluation']['mean_return']:.1f}",
        flush=True,
    )
    return seconds


def main(steps: int, num_rounds: int) -> bool:
    ratios = []
    for seed in range(num_rounds):
        serial = seconds_of("serial", steps, seed)
        ratios.append(seconds_of("ape-x", steps, seed, workers=NUM_ACTORS) / serial)
    return verdict(
        "MinAtar Breakout, Ape-X on threads, of serial's wall clock", median(ratios), "", at_most=0.75
    )


if __name__ == "__main__":
    asked = [int(one) for one in sys.argv[1:]]
    raise SystemExit(0 if main(*(asked + [300_000, 3][len(asked) :])) else 1)
