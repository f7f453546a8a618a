"""Two MPI ranks against two threads, on the same task, and a merge of 64 MB against a plain Allreduce of as many bytes.

mpiexec -n 2 python benchmarks/tables_mpi.py [side] [million steps a measurement]
"""

import sys
import time
from dataclasses import replace

import numpy as np
from tables_parallel import task_of
from timing import best_seconds, verdict

from qfleet.backends.mpi import MpiFleet
from qfleet.backends.mpi_job import current, run_job
from qfleet.backends.mpi_launch import this_job
from qfleet.backends.threads import ThreadFleet
from qfleet.fleet import Fleet, Group
from qfleet.tabular.cut import cut_blocks
from qfleet.tabular.learner import Task
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.topologies.table_team import TableTopology
from qfleet.worlds.catalogue import make_world
from qfleet.worlds.world import World

NUM_WORKERS, NUM_TURNS, NUM_MERGES = 2, 5, 10
MERGED_SIDE = 1414
"""A grid of so many cells squared has a table of 64 MB."""
WANTED_RATE, WANTED_MERGE = 95, 3
NAMES = [f"worker {rank}" for rank in range(NUM_WORKERS)]


def topology_of(name: str, task: Task, fleet: Fleet) -> TableTopology:
    if name == "averaged":
        return Averaged(fleet, task, AveragedConfig())
    return Partitioned(fleet, task, cut_blocks(task.world.num_states, NUM_WORKERS), PartitionedConfig())


def best_rate(topology: TableTopology, steps: int) -> float:
    """Steps a second, of the best of several turns after start-up."""
    topology.advance(steps // 2)
    best = 0.0
    for _ in range(NUM_TURNS):
        before, start = topology.num_steps, time.perf_counter()
        topology.advance(before + steps)
        best = max(best, (topology.num_steps - before) / (time.perf_counter() - start))
    topology.close()
    return best


def compare_rates(side: int, steps: int) -> list[bool]:
    task, reached = task_of(side, NUM_WORKERS), []
    for name in ("averaged", "partitioned"):
        rates = []
        for fleet in (ThreadFleet(), MpiFleet(this_job())):
            rates.append(best_rate(topology_of(name, task, fleet), steps))
            fleet.close()
        print(f"         GridWorld-{side}, {name}: two threads {rates[0] / 1e6:.1f} M steps/s")
        share = 100 * rates[1] / rates[0]
        reached.append(verdict(f"GridWorld-{side}, {name} on MPI", share, "%", at_least=WANTED_RATE))
    return reached


class Reducing:
    """One rank's part in Allreduces of the library's own."""

    def __init__(self, group: Group) -> None:
        job = current()
        assert job is not None
        self._communicator = job.communicator
        self._given = np.ones(4 * MERGED_SIDE**2)
        self._total = np.empty_like(self._given)

    def run(self, num_calls: int) -> None:
        for _ in range(num_calls):
            self._communicator.Allreduce(self._given, self._total)


def seconds_of_allreduce() -> float:
    fleet = MpiFleet(this_job())
    handles = fleet.start_group(NAMES, [Reducing] * NUM_WORKERS, 60.0)

    def run(num_calls: int) -> None:
        for future in [handle.call("run", num_calls) for handle in handles]:
            future.result(60.0)

    seconds = best_seconds(run, NUM_MERGES, NUM_TURNS)
    fleet.close()
    return seconds


def seconds_of_merge() -> float:
    """Rounds of one step, so of little but merges."""
    world, fleet = make_world(f"GridWorld-{MERGED_SIDE}", {}), MpiFleet(this_job())
    assert isinstance(world, World)
    topology = Averaged(
        fleet, replace(task_of(1024, NUM_WORKERS), world=world), AveragedConfig(sync_every_steps=1)
    )
    seconds = best_seconds(
        lambda num_calls: topology.advance(topology.num_steps + NUM_WORKERS * num_calls),
        NUM_MERGES,
        NUM_TURNS,
    )
    topology.close()
    fleet.close()
    return seconds


def compare_merges() -> bool:
    plain, merge = seconds_of_allreduce(), seconds_of_merge()
    print(f"         64 MB: Allreduce {1e3 * plain:.1f} ms, merge {1e3 * merge:.1f} ms")
    return verdict("a merge of 64 MB, in Allreduces of it", merge / plain, "x", at_most=WANTED_MERGE)


def main() -> int:
    given = [int(text) for text in sys.argv[1:]]
    side, million_steps = given + [1024, 200][len(given) :]
    reached = [compare_merges(), *compare_rates(side, million_steps * 1_000_000)]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(run_job(main))
