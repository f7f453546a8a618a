"""Memory of Ape-X over a million steps with four actors, driver and children together: whether it stays flat.

Run as `python benchmarks/fleet_memory.py [STEPS [BACKEND ...]]`.
"""

import sys
import tempfile
from contextlib import suppress

import numpy as np
import psutil
from timing import verdict

import qfleet

NUM_ACTORS = 4
NUM_SAMPLES = 200


def resident_bytes() -> int:
    """Of this process and all that it has started, what they share counted in each."""
    me, total = psutil.Process(), 0
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it ended between the two looks
            total += process.memory_info().rss
    return total


def samples_of(backend: str, steps: int) -> np.ndarray:
    """(num_samples, 2): steps, and bytes resident then."""
    samples: list[tuple[int, int]] = []

    def sample(status: qfleet.Status) -> None:
        if not samples or status.steps >= samples[-1][0] + steps // NUM_SAMPLES:
            samples.append((status.steps, resident_bytes()))

    with tempfile.TemporaryDirectory() as folder:
        qfleet.train(
            "CartPole-v1",
            topology="ape-x",
            backend=backend,
            workers=NUM_ACTORS,
            steps=steps,
            until_return=float("inf"),
            updates_per_step=0.05,
            replay_capacity=20_000,
            evaluate_every_steps=steps // 20,
            checkpoint_every_steps=steps // 20,
            out=f"{folder}/run",
            on_status=sample,
        )
    return np.array(samples, float)


def main(steps: int, backends: list[str]) -> bool:
    reached = []
    for backend in backends:
        samples = samples_of(backend, steps)
        # The replay is full, and everything was evaluated and saved before, long before a quarter of the run.
        later = samples[samples[:, 0] >= steps / 4]
        slope = np.polyfit(later[:, 0] / 1e6, later[:, 1] / 1e6, 1)[0]
        print(
            f"         on {backend}: {samples[:, 1].max() / 1e6:.0f} MB at most, driver and children",
            flush=True,
        )
        name = f"growth on {backend} from a quarter of {steps:,} steps on"
        reached.append(verdict(name, float(slope), "MB a million steps", at_most=5))
    return all(reached)


if __name__ == "__main__":
    asked = sys.argv[1:]
    steps = int(asked[0]) if asked else 1_000_000
    raise SystemExit(0 if main(steps, asked[1:] or ["threads", "processes"]) else 1)
