"""Two Ray workers of this machine against two threads, a merge against MPI's, and the time to the first update."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from ray.cluster_utils import Cluster
from tables_parallel import task_of
from timing import verdict

from qfleet.backends.ray_fleet import RayFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.fleet import Fleet, Group
from qfleet.tabular.cut import cut_blocks
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.topologies.table_team import TableTopology

NUM_WORKERS = 2
NUM_ROUNDS = 6
MERGED_BYTES = 64 * 2**20
FIRST_UPDATE = """
import sys, time, qfleet
def first(status):
    print(time.time())
    return False
qfleet.train("GridWorld-64", topology="averaged", workers=2, steps=10**9, backend="ray", address=sys.argv[1],
             out=sys.argv[2], quiet=True, on_status=first)
"""
ALLREDUCE = """
import sys, time, numpy as np
from mpi4py import MPI
sent = np.ones(int(sys.argv[1]) // 8)
received, seconds = np.empty_like(sent), []
for _ in range(int(sys.argv[2])):
    MPI.COMM_WORLD.Barrier()
    start = time.perf_counter()
    MPI.COMM_WORLD.Allreduce(sent, received)
    seconds.append(time.perf_counter() - start)
if MPI.COMM_WORLD.rank == 0:
    print(min(seconds))
"""


class Merger:
    """A worker that does nothing but merge."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def merge(self, num_bytes: int, num_times: int) -> float:
        """Seconds of the fastest."""
        array, seconds = np.ones(num_bytes // 8), []
        for _ in range(num_times):
            self.group.barrier()
            start = time.perf_counter()
            self.group.all_reduce(array, "sum")
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def seconds_to_first_update(address: str) -> float:
    """From the start of a process; the kernels have been compiled before."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        command = [sys.executable, "-c", FIRST_UPDATE, address, f"{folder}/run"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(ended.stdout.split()[0]) - start


def seconds_of_allreduce() -> float:
    """MPI's own, of the same bytes between two ranks."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    command = [str(mpiexec), "--allow-run-as-root", "--oversubscribe", "-n", str(NUM_WORKERS), sys.executable]
    command += ["-c", ALLREDUCE, str(MERGED_BYTES), "20"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def seconds_of_merge(address: str) -> float:
    """Ours, between two Ray workers."""
    with closing(RayFleet(address)) as fleet:
        handles = fleet.start_group(["one", "two"], [Merger] * NUM_WORKERS, 60.0)
        futures = [handle.call("merge", MERGED_BYTES, 20) for handle in handles]
        return max(future.result(120.0) for future in futures)


def topology_of(name: str, side: int, fleet: Fleet) -> TableTopology:
    task = task_of(side, NUM_WORKERS)
    if name == "averaged":
        return Averaged(fleet, task, AveragedConfig())
    return Partitioned(fleet, task, cut_blocks(task.world.num_states, NUM_WORKERS), PartitionedConfig())


def best_rates(name: str, side: int, fleets: dict[str, Callable[[], Any]], steps: int) -> dict[str, float]:
    """Steps a second, measured in turn after a start that counts for nothing."""
    made = {backend: make() for backend, make in fleets.items()}
    topologies = {backend: topology_of(name, side, fleet) for backend, fleet in made.items()}
    rates = dict.fromkeys(made, 0.0)
    for turn in range(NUM_ROUNDS + 1):
        for backend, topology in topologies.items():
            before, start = topology.num_steps, time.perf_counter()
            topology.advance(before + steps)
            rate = (topology.num_steps - before) / (time.perf_counter() - start)
            rates[backend] = max(rates[backend], rate) if turn else 0.0
    for backend, topology in topologies.items():
        topology.close()
        made[backend].close()
    return rates


def main(side: int, steps: int) -> bool:
    node = {"num_cpus": 4, "object_store_memory": 2**28, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    address = str(cluster.address)
    try:
        seconds_to_first_update(address)
        first = min(seconds_to_first_update(address) for _ in range(3))
        reached = [verdict("first update on a running cluster", first, "s", at_most=5)]
        ratio = seconds_of_merge(address) / seconds_of_allreduce()
        reached.append(verdict("a merge of 64 MB against MPI's Allreduce", ratio, "times", at_most=4))
        fleets: dict[str, Callable[[], Any]] = {"threads": ThreadFleet, "ray": lambda: RayFleet(address)}
        for name in ("averaged", "partitioned"):
            rates = best_rates(name, side, fleets, steps)
            percent = 100 * rates["ray"] / rates["threads"]
            reached.append(verdict(f"GridWorld-{side}, {name}, of threads", percent, "%", at_least=90))
    finally:
        cluster.shutdown()
    return all(reached)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    raise SystemExit(0 if main(*(given or [1024, 200_000_000])) else 1)
