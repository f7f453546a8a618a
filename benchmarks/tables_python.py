"""Taxi-v4 stepped in Python: two processes on one table or on two, against two independent processes."""

import multiprocessing
import time
from typing import Any

import numpy as np
from timing import verdict

from qfleet.backends.processes import ProcessFleet
from qfleet.states.config import StatesConfig
from qfleet.states.task import PythonTask, make_python_task
from qfleet.tabular.config import TabularConfig
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.shared import Shared, SharedConfig

NUM_WORKERS = 2
NUM_ROUNDS = 4
STEPS = 600_000
"""Of both workers, a round."""


def task_of(num_workers: int) -> PythonTask:
    states = StatesConfig(stepping="python")
    total = 10 * NUM_ROUNDS * STEPS
    return make_python_task("Taxi-v4", states, "q-learning", TabularConfig(), 0, total, num_workers)


def independent(barrier: Any, results: Any) -> None:
    task = task_of(1)
    learner = task.make_learner(0, task.make_table(np.zeros(task.shape)))
    learner.start()
    for _ in range(NUM_ROUNDS):
        barrier.wait()
        start = time.perf_counter()
        learner.advance(STEPS // NUM_WORKERS)
        results.put(STEPS // NUM_WORKERS / (time.perf_counter() - start))


def main() -> bool:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(NUM_WORKERS + 1), context.Queue()
    for _ in range(NUM_WORKERS):
        context.Process(target=independent, args=(barrier, results), daemon=True).start()
    task, fleet = task_of(NUM_WORKERS), ProcessFleet()
    made = {
        "shared": Shared(fleet, task, SharedConfig(), counts_visits=False),
        "averaged": Averaged(fleet, task, AveragedConfig()),
    }
    for topology in made.values():
        topology.prepare()
    best, rates = 0.0, dict.fromkeys(made, 0.0)
    for _ in range(NUM_ROUNDS):
        barrier.wait()
        best = max(best, sum(results.get() for _ in range(NUM_WORKERS)))
        for name, topology in made.items():
            before, start = topology.num_steps, time.perf_counter()
            topology.advance(before + STEPS)
            steps = topology.num_steps - before
            rates[name] = max(rates[name], steps / (time.perf_counter() - start))
    print(f"         Taxi-v4 in Python: two independent processes {best / 1e3:.0f} k steps/s")
    reached = [
        verdict(f"Taxi-v4 in Python, {name}", 100 * rate / best, "%", at_least=95)
        for name, rate in rates.items()
    ]
    for topology in made.values():
        topology.close()
    fleet.close()
    return all(reached)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
