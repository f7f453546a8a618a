"""No worker of a partitioned table holds rows of another's, and what they send is as long as the border."""

import gc
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qfleet.fleet import Exchange, Group, Reduction
from qfleet.tabular.cut import Cut, cut_by_owners
from qfleet.tabular.learner import Task
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig, PartitionedWorker
from tests.backends.members import BACKENDS, FLEETS
from tests.topologies.conftest import MembersOf
from tests.topologies.table_teams import make_worker, run, task_of, world_named

SMALLEST_HALO = 1024


class Listening:
    """A group whose member notes what it sends to others."""

    def __init__(self, group: Group) -> None:
        self._group, self.rank, self.size = group, group.rank, group.size
        self.sent: list[list[NDArray[Any]]] = []

    def exchange(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return self.start_exchange(arrays).finish()

    def all_reduce(self, array: NDArray[Any], reduction: Reduction) -> NDArray[Any]:
        return self._group.all_reduce(array, reduction)

    def broadcast(self, array: NDArray[Any], root: int) -> NDArray[Any]:
        return self._group.broadcast(array, root)

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> Exchange:
        self.sent.append([array.copy() for rank, array in enumerate(arrays) if rank != self.rank])
        return self._group.start_exchange(arrays)

    def barrier(self) -> None:
        self._group.barrier()


def arrays_in(worker: PartitionedWorker, group: Listening) -> list[NDArray[Any]]:
    """Every array that the worker can come to, but for what this test noted."""
    found: list[NDArray[Any]] = []
    queue: list[Any] = [worker]
    seen = {id(group)}
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, types.ModuleType | types.FunctionType | type):
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            found.append(item)
            queue.append(item.base)
        elif isinstance(item, Task) or type(item).__module__.partition(".")[0] in ("qfleet", "builtins"):
            queue.extend(gc.get_referents(item))
    return found


def hold_and_send(group: Group, task: Task, config: PartitionedConfig) -> tuple[int, list[Any], list[Any]]:
    listening = Listening(group)
    worker, _ = make_worker(listening, task, config)
    assert isinstance(worker, PartitionedWorker)
    worker.start()
    worker.advance(task.total_steps, None)
    held = [(array.size, array.shape) for array in arrays_in(worker, listening) if array.dtype.kind == "f"]
    return worker.rows().shape[1], held, listening.sent


@pytest.mark.parametrize("size", [48, 64])
def test_what_workers_hold_and_send(size: int, members_of: MembersOf) -> None:
    """A third of the rows each, once; to each neighbour one number for each cell of the line between them."""
    task = task_of(world_named(f"GridWorld-{size}"), "q-learning", 3_000_000, 3)
    config = PartitionedConfig(sync_every_steps=20_000, balance="none", keep_shards=True)
    found = run(members_of("threads", 3), hold_and_send, task, config)
    assert sum(rows for rows, _, _ in found) == size**2
    for rank, (rows, held, sent) in enumerate(found):
        assert rows <= size**2 // 3 + 1
        large = [entries for entries, _ in held if entries > 2 * SMALLEST_HALO]
        assert large == ([rows * 4] if rows * 4 > 2 * SMALLEST_HALO else [])
        neighbours = 1 if rank in (0, 2) else 2
        told = [int(sum(message[3] for message in messages)) for messages in sent]
        assert told[-1] == max(told) and neighbours * size <= told[-1] <= neighbours * (size + 2)
        for messages in sent:
            for message in messages:
                walkers, wanted, told_here = message[1:4].tolist()
                assert message.size == 5 + 6 * walkers + wanted + told_here
                assert walkers <= task.num_walkers and wanted <= size + 2 and told_here <= size + 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_shards_are_saved_looked_up_and_put_back(backend: str) -> None:
    """Through the driver, with an order of the states that is not that of their numbers."""
    task = task_of(world_named("Garnet-60"), "q-learning", 100_000, 2)
    owners = np.random.default_rng(2).integers(0, 2, 60)
    config = PartitionedConfig(sync_every_steps=1000, keep_shards=True)
    fleet = FLEETS[backend]()
    try:
        team = Partitioned(fleet, task, cut_by_owners(owners, 2), config)
        team.advance(task.total_steps)
        saved, values = team.save_tables(), team.values()
        assert "values" not in saved and sorted(saved["shards"]) == ["0", "1"]
        cut = Cut(tuple(saved["bounds"]), saved["positions"])
        for rank, shard in saved["shards"].items():
            np.testing.assert_array_equal(shard, values[:, cut.states(int(rank))])
        states = np.array([59, 3, 3, 0, 31])
        np.testing.assert_array_equal(team.look_up(states), values[:, states])
        team.set_values(np.zeros(task.shape))
        assert not team.values().any() and team.cut().bounds == tuple(saved["bounds"])
        team.load_tables(saved)
        np.testing.assert_array_equal(team.values(), values)
    finally:
        fleet.close()
