"""Two workers on two threads against two independent serial runs side by side, each in a process of its own."""

import multiprocessing
import sys
import time
from typing import Any

import numpy as np
from timing import verdict

from qfleet.backends.threads import ThreadFleet
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.cut import cut_blocks
from qfleet.tabular.learner import Task
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.topologies.shared import Shared, SharedConfig
from qfleet.topologies.table_team import TableTopology
from qfleet.worlds.catalogue import make_world
from qfleet.worlds.world import World

NUM_WORKERS = 2
NUM_ROUNDS = 6
STEPS = {64: 200_000_000, 1024: 1_500_000_000}
"""Of a whole run, which the lengths of default rounds follow from."""
MEASURED_STEPS = {64: 100_000_000, 1024: 200_000_000}
WANTED = {"averaged": 97, "averaged (visits)": 0, "partitioned": 97, "shared": 90}


def task_of(side: int, num_workers: int) -> Task:
    world = make_world(f"GridWorld-{side}", {})
    assert isinstance(world, World)
    config = TabularConfig(exploration_initial=0.1, exploration_final=0.1)
    return Task(world, "q-learning", config, 0, STEPS[side], num_workers)


def independent(side: int, barrier: Any, results: Any) -> None:
    task = task_of(side, 1)
    learner = task.make_learner(0, task.make_table(np.zeros(task.shape)))
    learner.start()
    learner.advance(MEASURED_STEPS[side] // 10)
    steps = MEASURED_STEPS[side] // NUM_WORKERS
    for _ in range(NUM_ROUNDS):
        barrier.wait()
        start = time.perf_counter()
        learner.advance(steps)
        results.put(steps / (time.perf_counter() - start))


def topology_of(name: str, side: int) -> tuple[TableTopology, ThreadFleet]:
    task, fleet = task_of(side, NUM_WORKERS), ThreadFleet()
    if name == "shared":
        return Shared(fleet, task, SharedConfig(), counts_visits=False), fleet
    if name == "partitioned":
        cut = cut_blocks(task.world.num_states, NUM_WORKERS)
        return Partitioned(fleet, task, cut, PartitionedConfig()), fleet
    merge = "visits" if "visits" in name else "equal"
    return Averaged(fleet, task, AveragedConfig(merge=merge)), fleet


def measured(topology: TableTopology, steps: int) -> float:
    before, start = topology.num_steps, time.perf_counter()
    topology.advance(before + steps)
    return (topology.num_steps - before) / (time.perf_counter() - start)


def compare(side: int) -> bool:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(NUM_WORKERS + 1), context.Queue()
    processes = [
        context.Process(target=independent, args=(side, barrier, results)) for _ in range(NUM_WORKERS)
    ]
    for process in processes:
        process.start()
    made = {name: topology_of(name, side) for name in WANTED}
    for topology, _ in made.values():
        topology.advance(MEASURED_STEPS[side] // 10)
    best, rates = 0.0, dict.fromkeys(WANTED, 0.0)
    for _ in range(NUM_ROUNDS):
        barrier.wait()
        best = max(best, sum(results.get() for _ in range(NUM_WORKERS)))
        for name, (topology, _) in made.items():
            rates[name] = max(rates[name], measured(topology, MEASURED_STEPS[side]))
    print(f"         GridWorld-{side}: two independent runs {best / 1e6:.1f} M steps/s")
    reached = [
        verdict(
            f"GridWorld-{side}, {name}", 100 * rates[name] / best, "%", at_least=wanted if side > 64 else 0
        )
        for name, wanted in WANTED.items()
    ]
    for topology, fleet in made.values():
        topology.close()
        fleet.close()
    return all(reached)


if __name__ == "__main__":
    sides = [int(side) for side in sys.argv[1:]] or [1024, 64]
    raise SystemExit(0 if all(list(map(compare, sides))) else 1)
