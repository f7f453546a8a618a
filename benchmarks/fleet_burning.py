"""An environment that computes for 1 ms a step in Python: two process actors against two processes that only step it.

The work of a step is counted, not timed. The machine's speed changes, so the plain processes run before and after
every run of the fleet, which is compared with their mean, and say how much work 1 ms is; the figure is the median of
these ratios. The plain processes begin at the same moment and step one environment each, without a policy, a recorder
or a replay.
Run as `python benchmarks/fleet_burning.py [SECONDS [ROUNDS]]`.
"""

import multiprocessing
import sys
import time
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from acting_runs import acting_rate
from slow_environments import BurningEnv, burn
from timing import best_seconds, verdict

STEP_SECONDS = 1e-3
NUM_ACTORS = 2
"""Shard and driver need a core now and then: that is missing from what the actors do."""
MANY_TURNS = 100_000


def roughly_turns_of_a_step() -> int:
    """How often the loop goes round in STEP_SECONDS, at this moment."""
    return round(MANY_TURNS * STEP_SECONDS / best_seconds(lambda calls: burn(calls * MANY_TURNS), 1))


def step_only(num_turns: int, seconds: float, barrier: Any, results: Any) -> None:
    environment = BurningEnv(num_turns)
    environment.reset(seed=0)
    barrier.wait(60)
    num_steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _, _, terminated, _, _ = environment.step(np.int64(0))
        num_steps += 1
        if terminated:
            environment.reset()
    results.put(num_steps / (time.perf_counter() - start))


def independent_rate(num_turns: int, seconds: float) -> float:
    """Steps a second of both processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(NUM_ACTORS), context.Queue()
    arguments = (num_turns, seconds, barrier, results)
    processes = [context.Process(target=step_only, args=arguments) for _ in range(NUM_ACTORS)]
    for process in processes:
        process.start()
    rates = [results.get(timeout=seconds + 60) for _ in processes]
    for process in processes:
        process.join(60)
    return sum(rates)


def fleet_rate(num_turns: int, seconds: float) -> float:
    """The same of two actors of Ape-X, each with its environments in its own process."""
    steps = round(NUM_ACTORS * seconds / STEP_SECONDS)
    return acting_rate(
        partial(BurningEnv, num_turns),
        steps,
        backend="processes",
        workers=NUM_ACTORS,
        engine="in-process",
    )


def main(seconds: float, num_rounds: int) -> bool:
    rough = roughly_turns_of_a_step()
    before, shares = rough * independent_rate(rough, seconds), []
    for _ in range(num_rounds):
        num_turns = round(before * STEP_SECONDS / NUM_ACTORS)
        fleet, alone = fleet_rate(num_turns, seconds), independent_rate(num_turns, seconds)
        mean = (before / num_turns + alone) / 2
        before = num_turns * alone
        shares.append(100 * fleet / mean)
        print(
            f"         plain processes {mean:.0f} steps/s, the fleet {fleet:.0f}: {shares[-1]:.1f} %",
            flush=True,
        )
    return verdict("two process actors, of two processes that only step", median(shares), "%", at_least=93)


if __name__ == "__main__":
    asked = sys.argv[1:]
    seconds, num_rounds = [*asked, *["15", "5"][len(asked) :]]
    raise SystemExit(0 if main(float(seconds), int(num_rounds)) else 1)
