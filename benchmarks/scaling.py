"""The cost model of docs/scaling.md: fitted to exchanges alone, then held against rounds of 1, 2, 4 and 8 Ray workers.

Every worker is on a simulated node of its own, and all nodes share this machine's cores and memory.
"""

import os
import sys
import time
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from qfleet.backends.ray_fleet import RayFleet
from qfleet.fleet import Fleet, Group
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.cut import cut_blocks
from qfleet.tabular.learner import Task
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.topologies.table_team import TableTopology
from qfleet.worlds.catalogue import make_world
from qfleet.worlds.world import World

SIDE, SIZES = 1024, (1, 2, 4, 8)
MESSAGE_BYTES = (64, 2**16, 2**20, 2**22)
ROUND_STEPS = 2**20
NUM_CALLS, ROUNDS_A_CALL, NUM_EXCHANGES = 5, 8, 10
NUM_CORES = len(os.sched_getaffinity(0))


class Exchanging:
    """A worker that only exchanges."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def seconds(self, num_bytes: int) -> float:
        """Of the fastest exchange of so many bytes to each of the others."""
        arrays, fastest = [np.ones(num_bytes, np.uint8)] * self._group.size, float("inf")
        for _ in range(NUM_EXCHANGES):
            self._group.barrier()
            start = time.perf_counter()
            self._group.exchange(arrays)
            fastest = min(fastest, time.perf_counter() - start)
        return fastest


def fit(fleet: Fleet, size: int) -> list[tuple[float, float, float]]:
    """(messages of a worker, bytes of all workers, seconds) of exchanges."""
    found = []
    handles = fleet.start_group([f"worker {rank}" for rank in range(size)], [Exchanging] * size, 60.0)
    for num_bytes in MESSAGE_BYTES:
        seconds = [future.result(60) for future in [handle.call("seconds", num_bytes) for handle in handles]]
        found.append((size - 1.0, size * (size - 1.0) * num_bytes, max(seconds)))
    return found


def topology_of(name: str, task: Task, fleet: Fleet) -> TableTopology:
    if name == "averaged":
        return Averaged(fleet, task, AveragedConfig(sync_every_steps=ROUND_STEPS))
    config = PartitionedConfig(sync_every_steps=ROUND_STEPS, balance="none")
    return Partitioned(fleet, task, cut_blocks(task.world.num_states, task.num_workers), config)


def seconds_a_round(name: str, task: Task, fleet: Fleet) -> tuple[float, float]:
    """Of the median of several, and the bytes that a worker sends in one."""
    topology, seconds = topology_of(name, task, fleet), []
    reports = topology.advance(4 * ROUND_STEPS * task.num_workers)
    for _ in range(NUM_CALLS):
        before, start = topology.num_steps, time.perf_counter()
        reports = topology.advance(before + ROUNDS_A_CALL * ROUND_STEPS * task.num_workers)
        made = (topology.num_steps - before) / ROUND_STEPS / task.num_workers
        seconds.append((time.perf_counter() - start) / made)
    table_bytes = np.prod(task.shape) * task.dtype.itemsize
    sent = reports[0].extras.get("sent_bytes_per_round", 2 * table_bytes * (1 - 1 / task.num_workers))
    topology.close()
    return float(np.median(seconds)), sent


def on_cluster(address: str, call: Any) -> Any:
    with closing(RayFleet(address)) as fleet:
        return call(fleet)


def fitted(address: str) -> NDArray[np.float64]:
    """Seconds of a message and of a byte, by least squares of relative errors."""
    points = [
        point for size in SIZES[1:] for point in on_cluster(address, lambda fleet, k=size: fit(fleet, k))
    ]
    terms = np.array([[messages, num_bytes] for messages, num_bytes, _ in points])
    seconds = np.array([seconds for *_, seconds in points])
    solved = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(points)), rcond=None)[0]
    print(f"{1e6 * solved[0]:.0f} us a message, {1e-9 / solved[1]:.2f} GB/s")
    return solved.astype(np.float64)


def compare(address: str, name: str, size: int, costs: NDArray[np.float64], rate: float) -> float:
    """Prints a round as measured and as predicted; the rate of one worker alone, in steps a second."""
    world = make_world(f"GridWorld-{SIDE}", {})
    assert isinstance(world, World)
    config = TabularConfig(exploration_initial=0.1, exploration_final=0.1)
    task = Task(world, "q-learning", config, 0, 10**12, size)
    seconds, sent = on_cluster(address, lambda fleet: seconds_a_round(name, task, fleet))
    rate = rate or ROUND_STEPS / seconds
    computing = ROUND_STEPS * size / (rate * min(size, NUM_CORES))
    messages = (size - 1) * (2 if name == "averaged" else 1)
    telling = costs[0] * messages + costs[1] * sent * size * (size > 1)
    print(
        f"{name:12} {size} workers: {1e3 * seconds:6.1f} ms a round, predicted {1e3 * (computing + telling):6.1f}, "
        f"of which {1e3 * telling:5.2f} of telling; {sent / 1e3:6.0f} kB told by each; "
        f"{1e-6 * ROUND_STEPS * size / seconds:.0f} M steps/s",
        flush=True,
    )
    return rate


def main() -> None:
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(max(SIZES) - 1):
        cluster.add_node(**node)
    try:
        costs = fitted(str(cluster.address))
        for name in ("partitioned", "averaged"):
            rate = 0.0
            for size in SIZES:
                rate = compare(str(cluster.address), name, size, costs, rate)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
