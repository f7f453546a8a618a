"""Tables on a parameter server: blocks of updates, against the same updates made in one place, and against Q*."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qfleet.deep.parameters import Parameters
from qfleet.errors import QfleetError
from qfleet.sources import as_world
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import Task
from qfleet.topologies.parameter_server import ParameterServerWorker, ServedRun
from qfleet.topologies.parameter_shard import ParameterShard
from qfleet.topologies.step_rules import BlockRule
from qfleet.topologies.table_source import TableServerConfig, TableSource, served_table
from qfleet.worlds.gymnasium_tables import mdp_of_gymnasium
from tests.backends import ray_cluster
from tests.topologies.services_of_tables import LAKE, ONCE, train

WALK: dict[str, Any] = {
    "learning_rate_schedule": "rescaled-linear",
    "exploration": "uniform",
    "discount": 0.9,
}


def lake_task(workers: int = 1, **config: Any) -> Task:
    world = as_world(mdp_of_gymnasium("FrozenLake-v1", {}))
    return Task(world, "q-learning", TabularConfig(**WALK | config), 3, 200_000, workers)


def no_moments(length: int) -> np.ndarray:
    return np.zeros((0, length), np.float32)


@pytest.mark.parametrize("num_workers", [2, 3, 8])
def test_blocks_of_many_workers_never_overshoot(num_workers: int) -> None:
    """All begin from b and make n updates towards T: together those of one that makes n * K. Sums would diverge."""
    begun, target, rate, number = 5.0, 1.0, 0.1, 30
    factor = (1 - rate) ** number
    block = np.array([[(1 - factor) * target], [factor]])
    value, summed = np.array([begun]), begun
    for update in range(1, num_workers + 1):
        BlockRule(0, 1).step(value, block, no_moments(1), 0.0, update)
        summed += (1 - factor) * (target - begun)
    assert value[0] == pytest.approx(target + (begun - target) * (1 - rate) ** (number * num_workers))
    assert summed < target - 2 < value[0] - 2


def walked(task: Task, begun: np.ndarray, block_steps: int) -> tuple[np.ndarray, np.ndarray]:
    source = TableSource(task, block_steps, 0, 0)
    source.start()
    source.take(0, begun)
    block = source.contribute(10**9, 0.0).gradient
    assert block is not None and block.shape == (2, len(begun))
    return block[0], block[1]


def test_a_block_does_to_another_table_what_its_updates_would() -> None:
    """Without a discount the targets are the rewards, whatever the table is: then it is exact."""
    task, random = lake_task(discount=0.0), np.random.default_rng(0)
    one, other = (np.concatenate([random.normal(size=64), np.full(64, 7.0)]) for _ in range(2))
    addends, factors = walked(task, one, 2000)
    own_addends, own_factors = walked(task, other, 2000)
    np.testing.assert_allclose(factors * other + addends, own_factors * other + own_addends, atol=1e-12)
    assert np.ptp(factors[:64]) > 0.5 and (factors[64:] == 1).all()
    np.testing.assert_array_equal(addends[:64][factors[:64] == 1], 0.0)
    assert addends[64:].sum() == 2000  # visits are counted


def test_a_worker_in_a_lost_ones_place_explores_as_late_as_it_did() -> None:
    task = lake_task(exploration="epsilon-greedy")
    source = TableSource(task, 100, 0, 1)
    source.start()
    source.take_over(Parameters(0, np.zeros(128)), 160_000, 0)
    ages = source.save_state()["learner"]["walkers"]["age"]
    assert (ages == 160_000 // task.num_walkers).all()
    first = TableSource(task, 100, 0, 0)
    first.start()
    random = [one.save_state()["learner"]["walkers"]["random"] for one in (first, source)]
    assert (random[0] != random[1]).all()


@pytest.mark.parametrize("num_shards", [1, 3])
def test_what_is_stale_is_dropped_and_what_is_repeated_ignored(num_shards: int) -> None:
    run = served_table(lake_task(), TableServerConfig(block_steps=500))
    run = ServedRun(partial(TableSource, lake_task(), 500), run.initial, run.rules, 64, 200_000, 1)
    worker = ParameterServerWorker(run, num_shards, 0, 0)
    worker.start()
    bounds = [len(run.initial.vector) * i // num_shards for i in range(num_shards + 1)]
    shards = [
        ParameterShard(run.initial.vector[bounds[i] : bounds[i + 1]], bounds[i], run.rules, 0)
        for i in range(num_shards)
    ]
    pulled = [shard.pull() for shard in shards]
    worker.compute(10**9, 0.0, *pulled)
    first = [worker.gradient(i) for i in range(num_shards)]
    after = [shard.push(push) for shard, push in zip(shards, first, strict=True)]
    again = [shard.push(push) for shard, push in zip(shards, first, strict=True)]
    worker.compute(10**9, 0.0, *pulled)
    late = [shard.push(worker.gradient(i)) for i, shard in enumerate(shards)]
    whole = [np.concatenate([part.values for part in parts]) for parts in (after, again, late)]
    assert whole[0].any() and whole[0][64:].sum() == 500
    np.testing.assert_array_equal(whole[1], whole[0])
    np.testing.assert_array_equal(whole[2], whole[0])
    assert [part.report.num_dropped for part in late] == [1] * num_shards


@pytest.mark.parametrize(
    "rates", [{}, {"learning_rate_schedule": "constant", "learning_rate": 0.2}], ids=["falling", "constant"]
)
def test_one_worker_makes_the_updates_of_serial(rates: dict[str, Any], tmp_path: Path) -> None:
    settings = LAKE | WALK | rates | {"steps": 200_000}
    serial = train("FrozenLake-v1", tmp_path / "serial", topology="serial", **settings)
    own: dict[str, Any] = {"topology": "parameter-server", "block_steps": 1000, "num_shards": 2}
    run = train("FrozenLake-v1", tmp_path / "run", **settings | own)
    np.testing.assert_allclose(run.values, serial.values, atol=1e-12, rtol=0)
    assert run.summary["updates"] == 200 and serial.values.max() > 0.3
    assert run.summary["episodes"] == serial.summary["episodes"]


@pytest.mark.parametrize("backend", ["threads", "processes"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_slippery_lake_comes_to_its_exact_values(backend: str, seed: int, tmp_path: Path) -> None:
    settings = LAKE | WALK | {"steps": 4_000_000, "topology": "parameter-server", "num_shards": 2}
    run = train("FrozenLake-v1", tmp_path / "run", backend=backend, seed=seed, workers=2, **settings)
    assert run.summary["max_error"] < 0.05 and run.summary["steps"] == 4_000_000
    assert run.summary["dropped_gradients"] == 0 and run.values.shape == (16, 4)


@pytest.mark.parametrize("workers", [2, 6])
def test_a_grid_comes_to_its_exact_values_to_the_last_bits(workers: int, tmp_path: Path) -> None:
    own: dict[str, Any] = {"topology": "parameter-server", "steps": 600_000, "learning_rate": 0.5}
    run = train("GridWorld-4", tmp_path / "run", workers=workers, **ONCE | own)
    assert run.summary["max_error"] < 1e-12


def test_a_garnet_comes_near_its_exact_values(tmp_path: Path) -> None:
    own: dict[str, Any] = {"topology": "parameter-server", "steps": 4_000_000, "table_type": "float32"}
    run = train("Garnet-20", tmp_path / "run", workers=3, **ONCE | WALK | {"discount": 0.8} | own)
    assert run.summary["max_error"] < 0.05 and run.values.dtype == np.float32


def test_environments_stepped_in_python(tmp_path: Path) -> None:
    own: dict[str, Any] = {"topology": "parameter-server", "backend": "processes", "stepping": "python"}
    own |= {"environment_options": ("is_slippery=False",), "learning_rate": 0.5, "exploration": "uniform"}
    run = train("FrozenLake-v1", tmp_path / "run", workers=2, steps=40_000, **LAKE | own)
    assert run.values[14].max() == pytest.approx(1.0, abs=1e-3)
    assert run.values[0].max() == pytest.approx(0.9**5, abs=0.02)


@pytest.mark.soak
@pytest.mark.parametrize(
    "rule", ["double-q-learning", "sarsa", "expected-sarsa", "tree-backup", "watkins-q-lambda"]
)
def test_every_rule_comes_to_its_fixed_point(rule: str, tmp_path: Path) -> None:
    own: dict[str, Any] = {"topology": "parameter-server", "steps": 8_000_000, "algorithm": rule}
    run = train("FrozenLake-v1", tmp_path / "run", workers=3, **LAKE | WALK | own)
    assert run.summary["max_error"] < 0.05


def test_on_ray(tmp_path: Path) -> None:
    own: dict[str, Any] = {"topology": "parameter-server", "backend": "ray", "workers": 2}
    own["address"] = ray_cluster.address()
    run = train("FrozenLake-v1", tmp_path / "run", **LAKE | WALK | {"steps": 2_000_000} | own)
    assert run.summary["max_error"] < 0.08


def test_it_stops_at_an_error_and_warm_starts(tmp_path: Path) -> None:
    own: dict[str, Any] = {"topology": "parameter-server", "workers": 2, "steps": 8_000_000}
    first = train("FrozenLake-v1", tmp_path / "first", **LAKE | WALK | own | {"until_error": 0.1})
    assert first.summary["stopped_by"] == "until_error" and first.summary["max_error"] <= 0.1
    assert first.summary["steps"] < 8_000_000
    given: dict[str, Any] = {"warm_start": str(tmp_path / "first"), "until_error": None, "steps": 100}
    warm = train("FrozenLake-v1", tmp_path / "warm", **LAKE | WALK | own | given | {"learning_rate": 1e-9})
    np.testing.assert_allclose(warm.values, first.values, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_steps": -1}, "block_steps is -1"),
        ({"num_shards": 0}, "num_shards is 0"),
        ({"until_change": 1e-3}, "has none; --until-error works"),
        ({"backend": "mpi"}, "work in rounds"),
        ({"backend": "ray", "max_workers": 4}, "keeps as many workers"),
        ({"stepping": "python", "backend": "threads"}, "--backend processes works"),
        (
            {"discretize": 4, "tilings": 2, "backend": "processes"},
            "q-learning with tile coding; serial, shared, averaged do",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        train("FrozenLake-v1", tmp_path / "run", topology="parameter-server", **LAKE | changes)


def test_blocks_are_long_enough_to_be_worth_a_message() -> None:
    task = lake_task(workers=2)
    assert TableServerConfig(block_steps=77).steps_of(task) == 77
    assert TableServerConfig().steps_of(task) == 200_000 // 200
    assert TableServerConfig().steps_of(replace(task, total_steps=10**9)) == 2**15
