"""Peak memory of tables beyond the imported interpreter, each case in a process of its own, on two threads."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from timing import verdict

SIDE = 5000
NUM_STATES = SIDE * SIDE
TABLE_BYTES = NUM_STATES * 4 * 8
CASES = {"serial": 1, "shared": 1, "partitioned": 1, "averaged": 2, "averaged visits": 4}
"""Tables, or arrays of a table's size, that each may hold."""


def status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def run_case(case: str) -> None:
    """Prints the bytes at the peak that were not there once everything was imported."""
    import qfleet
    from qfleet.table_trainee import TableTrainee
    from qfleet.worlds.catalogue import make_world

    topology, _, merge = case.partition(" ")
    options: dict[str, Any] = {"merge": merge} if merge else {}
    assert TableTrainee
    small = make_world("GridWorld-8", {})
    workers = 1 if topology == "serial" else 2
    with tempfile.TemporaryDirectory() as folder:
        # The same kernels on a small world: compiled code is not counted.
        for name, world, steps in (("small", small, 100_000), ("large", f"GridWorld-{SIDE}", 200_000_000)):
            before = status_bytes("VmRSS")
            assert world is not None
            qfleet.train(
                world,
                topology=topology,
                workers=workers,
                steps=steps,
                exact="no",
                evaluation_episodes=1,
                final_episodes=1,
                max_evaluation_steps=100,
                evaluate_every_steps=steps,
                checkpoint_every_steps=2 * steps,
                table_type="float64",
                initial_value=1.0,  # so that all of the table is there from the start
                out=f"{folder}/{name}",
                **options,
            )
    print(status_bytes("VmHWM") - before)


def main() -> bool:
    mdp_bytes = NUM_STATES * np.dtype(np.uint8).itemsize
    reached = True
    for case, tables in CASES.items():
        arguments = [sys.executable, __file__, case]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
        peak, allowed = int(done.stdout), tables * TABLE_BYTES + mdp_bytes
        share = 100 * peak / allowed
        print(f"         {case}: {peak / 1e6:.0f} MB for {allowed / 1e6:.0f} MB of tables and world")
        reached &= verdict(f"memory, {case}", share, "% of tables and world", at_most=110)
    return reached


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_case(sys.argv[1])
    else:
        raise SystemExit(0 if main() else 1)
