"""SIGKILL of a driver in the middle of Ape-X: all that it has started ends by itself, and /dev/shm is as it was before.

Run as `python benchmarks/fleet_orphans.py [BACKEND ...]`, with nothing else on the machine that makes segments.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from timing import verdict

from qfleet.runs.metrics import read_metrics

NUM_ACTORS = 4
START_SECONDS, RUN_SECONDS, END_SECONDS = 120.0, 3.0, 90.0


def start_run(backend: str, run: Path) -> subprocess.Popen[bytes]:
    """A driver that is training, as its metrics show."""
    command = f"-m qfleet train CartPole-v1 --topology ape-x --workers {NUM_ACTORS} --backend {backend}"
    endless = f"--steps 1000000 --until-return inf --quiet --out {run}"
    driver = subprocess.Popen([sys.executable, *command.split(), *endless.split()])
    deadline = time.monotonic() + START_SECONDS
    while not read_metrics(run):
        if time.monotonic() > deadline or driver.poll() is not None:
            driver.kill()
            raise SystemExit(f"the run on {backend} has not begun to train")
        time.sleep(0.1)
    time.sleep(RUN_SECONDS)
    return driver


def is_there(process: psutil.Process) -> bool:
    """Whether it still runs; one that has ended and that nobody has asked after does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_after_kill(driver: subprocess.Popen[bytes]) -> tuple[int, list[str], float]:
    """How many it had started, which of them are left at the end, and the seconds until none was."""
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait(10)
    killed = time.monotonic()
    while (left := [process for process in started if is_there(process)]) and (
        time.monotonic() < killed + END_SECONDS
    ):
        time.sleep(0.05)
    seconds = time.monotonic() - killed
    names = [process.name() for process in left]
    for process in left:
        process.kill()
    return len(started), names, seconds


def segments() -> set[str]:
    """What lies in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def main(backends: list[str]) -> bool:
    reached = []
    for backend in backends:
        before = segments()
        with tempfile.TemporaryDirectory() as folder:
            started, left, seconds = left_after_kill(start_run(backend, Path(folder) / "run"))
        outcome = f"{', '.join(left)} left" if left else "none left"
        print(f"         {backend}: of {started} processes {outcome} after {seconds:.1f} s", flush=True)
        remaining = segments() - before
        reached.append(verdict(f"orphans on {backend}", len(left), "processes", at_most=0))
        reached.append(verdict(f"left in /dev/shm on {backend}", len(remaining), "segments", at_most=0))
    return all(reached)


if __name__ == "__main__":
    raise SystemExit(0 if main(sys.argv[1:] or ["processes", "ray"]) else 1)
