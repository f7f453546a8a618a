"""From process start to exit: `qfleet train FrozenLake8x8-v1`, the first run ever and later ones."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import verdict

NUM_LATER = 5


def seconds(folder: str) -> float:
    program = str(Path(sys.executable).with_name("qfleet"))
    environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
    start = time.perf_counter()
    subprocess.run(
        [program, "train", "FrozenLake8x8-v1", "--quiet"],
        check=True,
        cwd=folder,
        env=environment,
        capture_output=True,
    )
    return time.perf_counter() - start


def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        first = seconds(folder)
        later = sorted(seconds(folder) for _ in range(NUM_LATER))
    reached = verdict("FrozenLake8x8-v1, the first run ever", first, "s", at_most=15)
    return verdict("FrozenLake8x8-v1, later", later[NUM_LATER // 2], "s", at_most=3) and reached


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
