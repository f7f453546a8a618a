"""Seconds of training until the largest error of the table is for the first time small enough, by scheme."""

import tempfile
from pathlib import Path

import qfleet

RACES = (("GridWorld-64", 800_000_000, 0.01), ("GridWorld-256", 3_000_000_000, 0.1))
"""(world, steps, error)"""


def report(world: str, steps: int, error: float, folder: Path) -> None:
    record = qfleet.race(world, workers=2, steps=steps, out=folder / world).record
    print(f"         {world}, {steps / 1e6:,.0f} M steps, two workers: seconds (steps) to max_error {error}")
    for scheme in record.schemes:
        first = next((point for point in scheme.curve if point[2] <= error), None)
        reached = f"{first[1]:.2f} s ({first[0] / 1e6:,.0f} M)" if first else "not reached"
        print(f"         {scheme.name}: {reached}; at the end {scheme.max_error:.2g}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for world, steps, error in RACES:
            report(world, steps, error, Path(folder))
