"""An environment that computes for 1 ms a step in Python: two process actors against two processes that only step it.

The machine's speed changes by the second. So both are there all the time, and are let go in turn, half a second each,
all the others being stopped: the fleet with its driver, then the plain processes, which step one environment each
without a policy, a recorder or a replay. How fast a process goes round the same loop differs by up to a tenth, as its
memory happens to lie, for as long as it lives: so all are started anew several times. The figure is the median, over
these launches, of the median ratio of neighbours. The work of a step is counted, not timed; how much of it 1 ms is,
plain processes say before.
Run as `python benchmarks/fleet_burning.py [LAUNCHES]`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from acting_runs import acting_rate
from slow_environments import BurningEnv, burn
from timing import best_seconds, verdict

STEP_SECONDS, NUM_ACTORS, MANY_TURNS = 1e-3, 2, 100_000
SETTLE_SECONDS, STINT_SECONDS, START_SECONDS, MOST_START_SECONDS = 0.15, 0.5, 4.0, 90.0
STINTS_A_LAUNCH = 10
FOR_EVER_STEPS = 10**9


class CountedEnv(BurningEnv):
    """Its steps, and those of all others of its process, are counted in a file of the folder."""

    def __init__(self, folder: str, num_turns: int) -> None:
        super().__init__(num_turns)
        path = Path(folder) / str(os.getpid())
        self._count = np.memmap(path, np.int64, mode="r+" if path.exists() else "w+", shape=(1,))

    def step(self, action: np.int64):
        """One more."""
        self._count[0] += 1
        return super().step(action)


def step_only(folder: str, num_turns: int) -> None:
    environment = CountedEnv(folder, num_turns)
    environment.reset(seed=0)
    while True:
        _, _, terminated, _, _ = environment.step(np.int64(0))
        if terminated:
            environment.reset()


def run_fleet(folder: str, num_turns: int) -> None:
    """Two actors of Ape-X, each with its environments in its own process."""
    environment = partial(CountedEnv, folder, num_turns)
    acting_rate(environment, FOR_EVER_STEPS, backend="processes", workers=NUM_ACTORS, engine="in-process")


class Side:
    """Processes that are stopped and let go together, and the steps that they count."""

    def __init__(self, what: str, num_programs: int, num_turns: int, folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, __file__, what, str(folder), str(num_turns)]
        self._folder, environ = folder, os.environ | {"TMPDIR": str(folder.parent)}
        self._programs = [
            subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(num_programs)
        ]

    def wait_until_it_steps(self) -> None:
        """All of it: a moment after the first steps."""
        deadline = time.monotonic() + MOST_START_SECONDS
        while self.num_steps() < NUM_ACTORS * 100 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(START_SECONDS)

    def num_steps(self) -> int:
        return sum(int(np.fromfile(path, np.int64).sum()) for path in self._folder.iterdir())

    def send(self, number: signal.Signals) -> None:
        for program in self._programs:
            whole = psutil.Process(program.pid)
            for process in [whole, *whole.children(recursive=True)]:
                process.send_signal(number)

    def rate(self) -> float:
        """Steps a second of a stint; stopped before and after."""
        self.send(signal.SIGCONT)
        time.sleep(SETTLE_SECONDS)
        before, started = self.num_steps(), time.perf_counter()
        time.sleep(STINT_SECONDS)
        after, ended = self.num_steps(), time.perf_counter()
        self.send(signal.SIGSTOP)
        return (after - before) / (ended - started)

    def end(self) -> None:
        self.send(signal.SIGKILL)
        for program in self._programs:
            program.wait(10)


@contextmanager
def started(sides: Sequence[tuple[str, int]], num_turns: int) -> Iterator[list[Side]]:
    """All of them, stopped."""
    with tempfile.TemporaryDirectory() as folder:
        made: list[Side] = []
        try:
            for what, num_programs in sides:
                made.append(Side(what, num_programs, num_turns, Path(folder) / what))
                made[-1].wait_until_it_steps()
                made[-1].send(signal.SIGSTOP)
            yield made
        finally:
            for side in made:
                side.end()


def turns_of_a_step() -> int:
    """How often the loop goes round in STEP_SECONDS where both cores are busy."""
    rough = round(MANY_TURNS * STEP_SECONDS / best_seconds(lambda calls: burn(calls * MANY_TURNS), 1))
    with started([("plain", NUM_ACTORS)], rough) as (plain,):
        return round(rough * plain.rate() * STEP_SECONDS / NUM_ACTORS)


def ratio_of_a_launch(num_turns: int) -> float:
    """Hundredths of what plain processes do that the fleet does, of processes started for this."""
    ratios = []
    with started([("fleet", 1), ("plain", NUM_ACTORS)], num_turns) as (fleet, plain):
        for _ in range(STINTS_A_LAUNCH):
            rates = fleet.rate(), plain.rate()
            ratios.append(100 * rates[0] / rates[1])
    print(f"         a launch: {median(ratios):.1f} %", flush=True)
    return median(ratios)


def main(num_launches: int) -> bool:
    num_turns = turns_of_a_step()
    ratios = [ratio_of_a_launch(num_turns) for _ in range(num_launches)]
    low, high = np.percentile(ratios, [25, 75])
    print(f"         half of the launches are from {low:.1f} to {high:.1f} %")
    return verdict("two process actors, of two processes that only step", median(ratios), "%", at_least=93)


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        step_only(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["fleet"]:
        run_fleet(sys.argv[2], int(sys.argv[3]))
    else:
        raise SystemExit(0 if main(int([*sys.argv[1:], 12][0])) else 1)
