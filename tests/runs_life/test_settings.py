"""Settings: what goes together, what is refused, and how they come back from JSON."""

import dataclasses
import json
from typing import Any, get_args

import gymnasium
import numpy as np
import pytest

from qfleet.choices import ALGORITHM_CONFIGS, TOPOLOGY_CONFIGS, Algorithm, TopologyName, kind_of
from qfleet.errors import QfleetError
from qfleet.experiment import make_settings
from qfleet.settings import RunConfig, Settings
from qfleet.states.config import StatesConfig
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.program import Rule
from qfleet.tabular.support import SUPPORTED, TABLE_TOPOLOGIES, Stepping, refuse_unsupported
from qfleet.topologies.overlapped import OverlappedConfig
from qfleet.topologies.partitioned import PartitionedConfig
from qfleet.tuned import default_settings, owner_of

RUNS = [
    (algorithm, topology)
    for algorithm in ALGORITHM_CONFIGS
    for topology in TOPOLOGY_CONFIGS[kind_of(algorithm)]
]


@pytest.mark.parametrize(("algorithm", "topology"), RUNS)
def test_every_algorithm_and_topology_survives_json(algorithm: Algorithm, topology: TopologyName) -> None:
    settings = default_settings("FrozenLake-v1", topology, algorithm)
    assert (settings.run.algorithm, settings.run.topology) == (algorithm, topology)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_whole_numbers_in_a_list_of_numbers_come_back() -> None:
    settings = default_settings("CartPole-v1", "serial", "q-learning", compiled=False)
    settings = dataclasses.replace(settings, engine=StatesConfig(discretize=4, bounds=(-1, 1, -2.5, 2.5)))
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))).states.bounds == (-1, 1, -2.5, 2.5)


def test_defaults_follow_what_is_learned() -> None:
    table = default_settings("FrozenLake-v1", None, "sarsa").run
    assert (table.topology, table.steps, table.backend) == ("serial", 20_000_000, "threads")
    assert table.checkpoint_interval == 2_000_000
    python = default_settings("Taxi-v4", "shared", "sarsa", compiled=False).run
    assert (python.steps, python.backend) == (1_000_000, "processes")
    deep = default_settings("ALE/Pong-v5").run
    assert (deep.algorithm, deep.topology, deep.checkpoint_interval) == ("dqn", "overlapped", 250_000)
    exponents = {
        name: default_settings("CartPole-v1", name).dqn.priority_exponent for name in ("pooled", "ape-x")
    }
    assert exponents == {"pooled": 0.0, "ape-x": 0.6}


@pytest.mark.parametrize(
    ("source", "values", "algorithm"),
    [
        ("FrozenLake-v1", {}, "q-learning"),
        ("Taxi-v4", {"stepping": "python"}, "q-learning"),
        ("Blackjack-v1", {}, "q-learning"),
        ("GridWorld-4", {}, "q-learning"),
        ("CartPole-v1", {}, "dqn"),
        ("CartPole-v1", {"discretize": 8}, "q-learning"),
        ("CartPole-v1", {"discretize": 8, "tilings": 8}, "q-learning"),
        ("MinAtar/Breakout-v1", {}, "dqn"),
        ("FrozenLake-v1", {"algorithm": "dqn"}, "dqn"),
    ],
)
def test_a_table_is_learned_where_one_can_hold_the_values(
    source: str, values: dict[str, Any], algorithm: str
) -> None:
    assert make_settings(source, None, values).run.algorithm == algorithm


@pytest.mark.parametrize("name", ["FrozenLake-v1", "GridWorld-4", "Blackjack-v1"])
def test_steps_depend_on_what_steps(name: str) -> None:
    compiled = 1_000_000 if name == "Blackjack-v1" else 20_000_000
    assert make_settings(name, None, {}).run.steps == compiled
    assert make_settings(name, None, {"steps": 77}).run.steps == 77


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"topology": "overlapped"}, "partitioned, parameter-server, asynchronous do"),
    ({"workers": 0}, "workers is 0"),
    ({"workers": 2}, "serial has 1 worker"),
    ({"backend": "processes"}, "leave --backend out"),
    ({"device": "cuda"}, "is for networks"),
    ({"until_error": -0.5}, "until_error is -0.5"),
    ({"until_change": float("nan")}, "until_change is nan"),
    ({"exact": "perhaps"}, "exact is 'perhaps'"),
    ({"n_step": 3}, "belongs to the algorithm tree-backup"),
    ({"batch_size": 3}, "batch_size belongs to --topology asynchronous"),
    ({"merge": "visits"}, "merge belongs to --topology averaged"),
    ({"discretise": 3}, "did you mean discretize"),
    ({"discretize": 1}, "at least 2 bins"),
    ({"tilings": 4}, "--discretize 8 --tilings 4"),
    ({"bounds": (0.0, 1.0)}, "only with --discretize"),
    ({"discretize": 4, "bounds": (0.0, 1.0, 2.0)}, "0 1 2"),
    ({"discretize": 4, "bounds": (0.0, float("inf"))}, "finite low"),
    ({"max_episode_steps": -1}, "max_episode_steps is -1"),
    ({"environment_options": ("slippery",)}, "should read key=value"),
    ({"stepping": "fast"}, "stepping is 'fast'"),
    (
        {"stepping": "python", "topology": "partitioned"},
        "--algorithm q-learning in environments stepped in Python",
    ),
    ({"stepping": "python", "topology": "averaged", "backend": "threads"}, "--backend processes works"),
    (
        {"discretize": 4, "tilings": 4, "algorithm": "tree-backup"},
        "tree-backup does not work with tile coding",
    ),
    ({"algorithm": "dqn", "until_change": 0.1}, "--until-change is for tables"),
    ({"algorithm": "dqn", "workers": 2}, "--workers 2"),
    (
        {"algorithm": "dqn", "topology": "partitioned"},
        "overlapped, serial, averaged, data-parallel, model-parallel, pooled",
    ),
    ({"algorithm": "dqn", "discretize": 4}, "discretize belongs to the algorithms of tables"),
    ({"algorithm": "a2c"}, "algorithm is 'a2c'"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(QfleetError) as raised:
        make_settings("FrozenLake-v1", None, values)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_sections_of_another_kind_are_refused() -> None:
    run = RunConfig(algorithm="q-learning", topology="serial")
    with pytest.raises(QfleetError, match="algorithm q-learning takes TabularConfig, not DQNConfig"):
        Settings("x", run)
    with pytest.raises(QfleetError, match="algorithm q-learning takes StatesConfig"):
        Settings("x", run, algorithm=TabularConfig())
    with pytest.raises(QfleetError, match="topology serial takes TableSerialConfig"):
        Settings("x", run, StatesConfig(), TabularConfig(), OverlappedConfig())


def test_another_topology_keeps_what_both_have() -> None:
    settings = default_settings("GridWorld-4", "averaged", "q-learning")
    run = dataclasses.replace(settings.run, workers=3, backend="processes", seed=9)
    topology = dataclasses.replace(settings.topology, sync_every_steps=123)
    settings = dataclasses.replace(settings, run=run, topology=topology)
    moved = settings.with_topology("partitioned")
    assert isinstance(moved.topology, PartitionedConfig) and moved.topology.sync_every_steps == 123
    assert (moved.run.workers, moved.run.backend, moved.run.seed) == (3, "processes", 9)
    alone = settings.with_topology("serial")
    assert (alone.run.workers, alone.run.backend, alone.run.seed) == (1, "threads", 9)
    assert settings.with_algorithm("sarsa").run.algorithm == "sarsa"
    with pytest.raises(QfleetError, match="learns a network"):
        settings.with_algorithm("dqn")
    with pytest.raises(QfleetError, match="overlapped does not work"):
        settings.with_topology("overlapped")


@pytest.mark.parametrize("stepping", get_args(Stepping))
@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("topology", TABLE_TOPOLOGIES)
def test_the_matrix_is_what_is_refused(rule: Rule, topology: str, stepping: Stepping) -> None:
    backend = "threads" if topology == "serial" else "processes"
    supported = topology in SUPPORTED[stepping].get(rule, ())
    expected = {
        "compiled": topology != "asynchronous" or rule == "q-learning",
        "python": topology not in ("partitioned", "asynchronous"),
        "tiles": topology in ("serial", "shared", "averaged")
        and rule in ("q-learning", "sarsa", "expected-sarsa"),
    }[stepping]
    assert supported == expected
    if supported:
        refuse_unsupported(rule, topology, backend, stepping)
    else:
        with pytest.raises(QfleetError, match=r"do$"):
            refuse_unsupported(rule, topology, backend, stepping)


def test_owners_of_settings() -> None:
    assert owner_of("hidden_sizes", "table") == "--algorithm dqn"
    assert owner_of("batch_size", "table") == "--topology asynchronous"
    assert owner_of("temperature", "deep").startswith("the algorithms of tables")
    assert owner_of("keep_shards", "table") == "--topology partitioned"
    assert owner_of("keep_shards", "deep") == "--topology partitioned"
    assert owner_of("nothing", "table") == ""


def test_the_stepping_that_settings_decide() -> None:
    assert StatesConfig().known_stepping is None
    assert StatesConfig(discretize=4, tilings=2).known_stepping == "tiles"
    assert StatesConfig(wrappers=("TimeLimit=5",)).known_stepping == "python"
    assert StatesConfig(stepping="compiled").known_stepping == "compiled"
    assert np.isfinite(StatesConfig(discretize=3, bounds=(0.0, 1.0)).bounds).all()


def _makes_cart_pole() -> gymnasium.Env:
    return gymnasium.make("CartPole-v1")


@pytest.mark.parametrize(
    ("environment", "values", "backend"),
    [
        ("CartPole-v1", {"topology": "ape-x"}, "threads"),
        ("CartPole-v1", {"topology": "averaged", "num_envs": 1}, "processes"),
        ("CartPole-v1", {"topology": "averaged", "engine": "processes"}, "threads"),
        ("CartPole-v1", {"topology": "model-parallel"}, "processes"),
        ("LunarLander-v3", {"topology": "ape-x"}, "processes"),
        ("LunarLander-v3", {"topology": "ape-x", "backend": "threads"}, "threads"),
        ("LunarLander-v3", {}, "threads"),
        (_makes_cart_pole, {"topology": "pooled"}, "processes"),
    ],
)
def test_workers_on_threads_do_not_wait_for_one_anothers_python(
    environment: Any, values: dict[str, Any], backend: str
) -> None:
    settings = make_settings(environment, None, {"algorithm": "dqn"} | values)
    assert settings.run.backend == backend


@pytest.mark.parametrize(
    ("topology", "backend", "expected"),
    [
        ("ape-x", "processes", 3),
        ("ape-x", "ray", 3),
        ("ape-x", "threads", 0),  # nobody can be replaced there
        ("averaged", "processes", 0),  # that would take the memory of a second copy
        ("averaged", "ray", 3),
    ],
)
def test_lost_members_are_replaced_where_that_costs_little(
    topology: Any, backend: Any, expected: int
) -> None:
    run = RunConfig(algorithm="dqn", topology=topology, backend=backend, workers=2)
    assert run.allowed_restarts == expected
