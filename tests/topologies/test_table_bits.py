"""Same seed, same bits: one worker is serial, threads are processes, and how a run is cut into turns is nobody's."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qfleet.topologies.averaged import AveragedConfig
from qfleet.topologies.partitioned import PartitionedConfig
from qfleet.topologies.serial import TableSerialConfig
from tests.topologies.conftest import MembersOf
from tests.topologies.table_teams import RULES, Config, learn, task_of, world_named

WORLDS = {"grid": world_named("GridWorld-16"), "garnet": world_named("Garnet-60")}
STEPS, ROUND = 60_013, 977
"""Neither divides the other, and neither is a multiple of 2, 3 or 4."""

CONFIGS: dict[str, Config] = {
    "equal": AveragedConfig(sync_every_steps=ROUND),
    "grown": AveragedConfig(sync_every_steps=ROUND, sync_growth=1.3),
    "delta": AveragedConfig(sync_every_steps=ROUND, merge="delta"),
    "partitioned": PartitionedConfig(sync_every_steps=ROUND),
}
VISITS = AveragedConfig(sync_every_steps=ROUND, merge="visits")
ON_THE_GRID = [
    pytest.param("grid", rule, marks=[pytest.mark.soak] if rule != "q-learning" else []) for rule in RULES
]
THREE = ("q-learning", "sarsa", "double-q-learning")
"""Kernels of a world take seconds to compile: for every day, those of one are enough, by these rules."""
ON_THE_GARNET = [
    pytest.param("garnet", rule, marks=[pytest.mark.soak] if rule not in THREE else []) for rule in RULES
]
EVERYWHERE = [*ON_THE_GRID, *ON_THE_GARNET]
OFTEN = [*ON_THE_GRID, *(("garnet", rule) for rule in THREE)]


@pytest.mark.parametrize(("world", "rule"), EVERYWHERE)
def test_one_worker_is_serial(world, rule, members_of: MembersOf) -> None:
    task, alone = task_of(WORLDS[world], rule, STEPS), members_of("threads", 1)
    serial = learn(alone, task, TableSerialConfig())
    assert (serial > 0).sum() > 200
    for name in ("equal", "grown", "partitioned"):
        assert learn(alone, task, CONFIGS[name]).tobytes() == serial.tobytes(), name
    delta = learn(alone, task, CONFIGS["delta"])
    np.testing.assert_allclose(delta, serial, rtol=0, atol=1e-9 * serial.max())


@pytest.mark.parametrize(
    "rule", ["q-learning", *(pytest.param(rule, marks=pytest.mark.soak) for rule in RULES[1:])]
)
@pytest.mark.parametrize("schedule", ["visits", pytest.param("constant", marks=pytest.mark.soak)])
def test_one_worker_weighted_by_visits_is_serial(rule, schedule, members_of: MembersOf) -> None:
    rate: dict[str, Any] = (
        {} if schedule == "visits" else {"learning_rate": 0.2, "learning_rate_exponent": 0.8}
    )
    task = task_of(WORLDS["garnet"], rule, STEPS, learning_rate_schedule=schedule, **rate)
    alone = members_of("threads", 1)
    assert learn(alone, task, VISITS).tobytes() == learn(alone, task, TableSerialConfig()).tobytes()


@pytest.mark.parametrize(("world", "rule"), OFTEN)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_threads_and_processes_give_the_same_bits(world, rule, workers: int, members_of: MembersOf) -> None:
    task = task_of(WORLDS[world], rule, STEPS, workers)
    tables = {}
    for name in ("equal", "delta", "partitioned"):
        one, other = (
            learn(members_of(backend, workers), task, CONFIGS[name]) for backend in ("threads", "processes")
        )
        assert one.tobytes() == other.tobytes(), name
        tables[name] = one
    if workers > 1:
        assert len({table.tobytes() for table in tables.values()}) == 3


@pytest.mark.parametrize(
    "rule", ["q-learning", *(pytest.param(rule, marks=pytest.mark.soak) for rule in THREE[1:])]
)
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_weighted_by_visits_too(rule, workers: int, members_of: MembersOf) -> None:
    task = task_of(WORLDS["garnet"], rule, STEPS, workers)
    one, other = (learn(members_of(backend, workers), task, VISITS) for backend in ("threads", "processes"))
    assert one.tobytes() == other.tobytes()
    equal = learn(members_of("threads", workers), task, CONFIGS["equal"])
    assert one.tobytes() != equal.tobytes()


@pytest.mark.parametrize("rule", THREE)
@pytest.mark.parametrize("name", ["serial", "equal", "delta", "grown", "partitioned"])
def test_turns_change_nothing(rule, name, members_of: MembersOf) -> None:
    """Turns end within rounds, at their ends, and so close that a round is longer than several."""
    workers = 1 if name == "serial" else 3
    config = TableSerialConfig() if name == "serial" else CONFIGS[name]
    task, group = task_of(WORLDS["garnet"], rule, STEPS, workers), members_of("threads", workers)
    whole = learn(group, task, config)
    turns = (1, 2, 3 * ROUND, 3 * ROUND + 1, 10_000, 10_001, 10_500, 40_000, STEPS - 1)
    assert learn(group, task, config, turns).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", ["equal", "partitioned"])
def test_another_seed_gives_other_bits(name, members_of: MembersOf) -> None:
    task, group = task_of(WORLDS["garnet"], "q-learning", STEPS, 2), members_of("threads", 2)
    tables = [learn(group, replace(task, seed=seed), CONFIGS[name]) for seed in (11, 12)]
    assert tables[0].tobytes() != tables[1].tobytes()
