"""Peak memory of a CartPole run, and whether it stays flat over two million steps."""

import resource
import tempfile
from pathlib import Path

import numpy as np
from timing import verdict

import qfleet

STEPS = 2_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> bool:
    samples: list[tuple[int, int]] = []

    def sample(status: qfleet.Status) -> None:
        if not samples or status.steps >= samples[-1][0] + 20_000:
            samples.append((status.steps, resident_bytes()))

    with tempfile.TemporaryDirectory() as folder:
        qfleet.train(
            "CartPole-v1",
            steps=STEPS,
            until_return=float("inf"),
            updates_per_step=0.05,
            evaluate_every_steps=100_000,
            checkpoint_every_steps=100_000,
            out=f"{folder}/run",
            on_status=sample,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # The replay of 100,000 transitions is full long before a quarter of the run.
    later = np.array([pair for pair in samples if pair[0] >= STEPS // 4], float)
    slope = np.polyfit(later[:, 0] / 1e6, later[:, 1] / 1e6, 1)[0]
    reached = verdict("peak memory of a CartPole run", peak / 1e6, "MB", at_most=600)
    return (
        verdict("growth from step 500,000 to 2,000,000", float(slope), "MB a million steps", at_most=5)
        and reached
    )


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
