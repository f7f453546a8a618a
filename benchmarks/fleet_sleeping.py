"""Actors whose environments sleep 10 ms a step: 8 and 32 of them against as many times one, on threads and processes.

Each actor of Ape-X has one environment; steps a second are those of the run's metrics after its start. Nothing here is
bound by the cores but what is done around a step.
Run as `python benchmarks/fleet_sleeping.py [SECONDS [BACKEND ...]]`.
"""

import sys
from functools import partial

from acting_runs import acting_rate
from slow_environments import SleepingEnv
from timing import verdict

STEP_SECONDS = 0.01
LEAST_SHARES = {8: 95, 32: 90}
"""Percent of linear, by the number of actors."""


def rate(backend: str, num_actors: int, seconds: float) -> float:
    steps = round(num_actors * seconds / STEP_SECONDS)
    environment = partial(SleepingEnv, STEP_SECONDS)
    return acting_rate(environment, steps, backend=backend, workers=num_actors, num_envs=1)


def main(seconds: float, backends: list[str]) -> bool:
    reached = []
    for backend in backends:
        one = rate(backend, 1, seconds)
        print(f"         one actor on {backend}: {one:.1f} steps/s", flush=True)
        for num_actors, least in LEAST_SHARES.items():
            share = 100 * rate(backend, num_actors, seconds) / (num_actors * one)
            reached.append(
                verdict(f"{num_actors} actors on {backend}, of linear", share, "%", at_least=least)
            )
    return all(reached)


if __name__ == "__main__":
    asked = sys.argv[1:]
    seconds = float(asked[0]) if asked else 30.0
    raise SystemExit(0 if main(seconds, asked[1:] or ["threads", "processes"]) else 1)
