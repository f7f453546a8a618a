"""Tables learned by groups whose members stay: many runs in few processes, all of a worker's state at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Group
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.cut import Cut, cut_blocks
from qfleet.tabular.learner import Advance, Task
from qfleet.tabular.program import Rule
from qfleet.topologies.averaged import AveragedConfig, AveragedWorker
from qfleet.topologies.partitioned import PartitionedConfig, PartitionedWorker
from qfleet.topologies.serial import TableSerialConfig, TableSerialWorker
from qfleet.topologies.table_team import TableWorker
from qfleet.worlds.catalogue import make_world
from qfleet.worlds.world import World
from tests.backends.members import Members

RULES: tuple[Rule, ...] = (
    "q-learning",
    "double-q-learning",
    "sarsa",
    "expected-sarsa",
    "tree-backup",
    "watkins-q-lambda",
)
FALLING = {"learning_rate": 1.0, "learning_rate_schedule": "visits", "learning_rate_exponent": 0.65}
Config = TableSerialConfig | AveragedConfig | PartitionedConfig


@dataclass(frozen=True)
class Learned:
    """What one worker came to."""

    values: NDArray[Any]
    """(num_tables, rows, num_actions): its copy, or its own rows."""
    bounds: tuple[int, ...]
    """The cut, if there is one."""
    advance: Advance
    num_steps: int
    extras: dict[str, float]


def world_named(name: str, **options: str) -> World:
    world = make_world(name, options)
    assert world is not None
    return world


def task_of(world: World, rule: Rule, steps: int, workers: int = 1, **config: Any) -> Task:
    """The rates that converge in it: constant where nothing is random, else falling ones."""
    rates = {"learning_rate": 0.5} if world.name.startswith("GridWorld") else FALLING
    chosen = {"exploration_initial": 0.5, "exploration_final": 0.3, "discount": 0.8, "walkers": 24}
    chosen = chosen | rates | config
    return Task(world, rule, TabularConfig(**chosen), 11, steps, workers)


def make_worker(
    group: Group, task: Task, config: Config, cut: Cut | None = None
) -> tuple[TableWorker, NDArray[Any] | None]:
    """A worker, and its table if it is a whole one."""
    if isinstance(config, PartitionedConfig):
        cut = cut_blocks(task.world.num_states, task.num_workers) if cut is None else cut
        return PartitionedWorker(task, cut, config, group), None
    if isinstance(config, AveragedConfig):
        copies = np.zeros((task.num_workers, *task.shape), task.dtype)
        return AveragedWorker(task, copies, config, group), copies[group.rank]
    values = np.zeros(task.shape, task.dtype)
    return TableSerialWorker(task, values, config, group), values


def learn_in(
    group: Group, task: Task, config: Config, turns: Sequence[int] = (), cut: Cut | None = None
) -> Learned:
    """Learns to the end of the task, stopping at `turns`."""
    worker, values = make_worker(group, task, config, cut)
    worker.start()
    report, advance = None, Advance()
    for until in (*turns, task.total_steps):
        if worker.num_steps < until:
            report = worker.advance(until, None)
            advance += report.advance
    assert report is not None
    bounds: tuple[int, ...] = ()
    if isinstance(worker, PartitionedWorker):
        values, bounds = worker.rows().copy(), tuple(worker.bounds())
    assert values is not None
    return Learned(values, bounds, advance, report.num_steps, report.extras)


def table_of(learned: Sequence[Learned], cut: Cut | None = None) -> NDArray[Any]:
    """(num_tables, num_states, num_actions): the one table that the workers have."""
    if not learned[0].bounds:
        for other in learned[1:]:
            assert other.values.tobytes() == learned[0].values.tobytes()
        return learned[0].values
    assert {one.bounds for one in learned} == {learned[0].bounds}
    for one, (low, high) in zip(learned, pairwise(learned[0].bounds), strict=True):
        assert one.values.shape[1] == high - low
    whole = np.concatenate([one.values for one in learned], axis=1)
    return whole[:, cut.positions] if cut is not None and cut.positions.size else whole


def run(members: Members, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(group, *arguments)` gives on every rank, with time for kernels to be compiled."""
    futures = [handle.call("run", function, *arguments) for handle in members.handles]
    return [future.result(250) for future in futures]


def learn(members: Members, task: Task, config: Config, turns: Sequence[int] = ()) -> NDArray[Any]:
    """The table that a whole group learns; exactly the steps asked for are made."""
    learned = run(members, learn_in, task, config, turns)
    assert {one.num_steps for one in learned} == {task.total_steps}
    assert sum(one.advance.steps for one in learned) == task.total_steps
    return table_of(learned)
