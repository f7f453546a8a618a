"""Settings that are known to work, by environment; a run begins from these and the user's flags go on top.

Every entry is measured in docs/benchmarks.md. Keys are fields of the four config dataclasses.
"""

from dataclasses import fields, replace
from fnmatch import fnmatch
from typing import Any

from qfleet.choices import (
    ALGORITHM_CONFIGS,
    ENGINE_CONFIGS,
    TOPOLOGY_CONFIGS,
    Algorithm,
    Kind,
    TopologyName,
    default_topology,
    kind_of,
)
from qfleet.deep.support import BACKENDS
from qfleet.settings import RunConfig, Settings
from qfleet.states.config import StatesConfig
from qfleet.tabular.config import TabularConfig

TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 50_000,
        "until_return": 490.0,
        "evaluate_every_steps": 1_000,
        "learning_rate": 1e-3,
        "batch_size": 64,
        "updates_per_step": 0.5,
        "target_update_every_updates": 64,
        "n_step": 3,
        "exploration_steps": 5_000,
        "exploration_final": 0.04,
    },
    "Acrobot-v1": {
        "steps": 60_000,
        "until_return": -82.0,
        "evaluate_every_steps": 3_000,
        "learning_rate": 1e-3,
        "batch_size": 64,
        "updates_per_step": 0.5,
        "target_update_every_updates": 64,
        "n_step": 3,
        "exploration_steps": 10_000,
    },
    "MountainCar-v0": {
        "steps": 120_000,
        "until_return": -105.0,
        "evaluate_every_steps": 4_000,
        "learning_rate": 1e-3,
        "batch_size": 128,
        "updates_per_step": 0.5,
        "target_update_every_updates": 200,
        "n_step": 5,
        "exploration_steps": 20_000,
    },
    "LunarLander-v3": {
        "steps": 160_000,
        "until_return": 235.0,
        "evaluate_every_steps": 4_000,
        "learning_rate": 6e-4,
        "batch_size": 128,
        "updates_per_step": 1.0,
        "target_update_every_updates": 250,
        "n_step": 3,
        "replay_capacity": 50_000,
        "exploration_steps": 15_000,
        "exploration_final": 0.1,
    },
    "MinAtar/*": {
        "steps": 1_000_000,
        "learning_rate": 3e-4,
        "batch_size": 32,
        "updates_per_step": 0.25,
        "learning_starts_steps": 5_000,
        "target_update_every_updates": 250,
        "n_step": 3,
        "exploration_steps": 100_000,
        "exploration_final": 0.02,
    },
    "ALE/*": {
        "steps": 10_000_000,
        "learning_rate": 6.25e-5,
        "adam_epsilon": 1.5e-4,
        "batch_size": 32,
        "updates_per_step": 0.25,
        "learning_starts_steps": 20_000,
        "target_update_every_updates": 2_000,
        "n_step": 3,
        "replay_capacity": 1_000_000,
        "reward_limit": 1.0,
        "exploration_steps": 250_000,
        "exploration_final": 0.01,
    },
}
"""By id or pattern."""

TUNED_POLICIES: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"steps": 100_000, "until_return": 490.0, "evaluate_every_steps": 4_000},
}
"""The same for --algorithm reinforce."""

OF_TOPOLOGIES: dict[TopologyName, dict[str, Any]] = {"ape-x": {"priority_exponent": 0.6}}
"""What belongs to a topology of action values by its source; an environment's own go on top."""

TUNED_TOPOLOGIES: dict[tuple[Kind, TopologyName], dict[str, dict[str, Any]]] = {
    ("deep", "async-n-step"): {"CartPole-v1": {"steps": 1_000_000}},  # each is learned from once
    ("deep", "data-parallel"): {"CartPole-v1": {"steps": 100_000}},  # two workers make one's updates together
    ("policy", "parameter-server"): {"CartPole-v1": {"learning_rate": 1.5e-3}},  # gradients are late
}
"""On top of these, where a topology needs other values."""


def is_tuned(environment: str) -> bool:
    """Whether settings are shipped for this id."""
    return any(fnmatch(environment, pattern) for pattern in TUNED)


_COMPILED_STEPS, _PYTHON_STEPS = 20_000_000, 1_000_000


def default_settings(
    environment: str,
    topology: TopologyName | None = None,
    algorithm: Algorithm = "dqn",
    *,
    compiled: bool = True,
) -> Settings:
    """What a run of `environment` begins from; whether it is stepped without Python in the way decides where."""
    kind = kind_of(algorithm)
    name = default_topology(kind) if topology is None else topology
    if name not in TOPOLOGY_CONFIGS[kind]:
        RunConfig(algorithm=algorithm, topology=name)  # which says what works
    if kind == "table":
        return _table_settings(environment, algorithm, name, compiled)
    backend = "processes" if not compiled and "processes" in BACKENDS[name] else BACKENDS[name][0]
    run = RunConfig(algorithm=algorithm, topology=name, backend=backend)
    config = ALGORITHM_CONFIGS[algorithm]()
    settings = Settings(environment, run, algorithm=config, topology=TOPOLOGY_CONFIGS[kind][name]())
    if kind == "deep":
        settings = with_values(settings, OF_TOPOLOGIES.get(name, {}))
    for tuned in (TUNED if kind == "deep" else TUNED_POLICIES, TUNED_TOPOLOGIES.get((kind, name), {})):
        for pattern, values in tuned.items():
            if fnmatch(environment, pattern):
                settings = with_values(settings, values)
    return settings


def _table_settings(
    environment: str, algorithm: Algorithm, topology: TopologyName, compiled: bool
) -> Settings:
    run = RunConfig(
        algorithm=algorithm,
        topology=topology,
        backend="threads" if compiled or topology == "serial" else "processes",
        steps=_COMPILED_STEPS if compiled else _PYTHON_STEPS,
    )
    return Settings(environment, run, StatesConfig(), TabularConfig(), TOPOLOGY_CONFIGS["table"][topology]())


_DESCRIBED: dict[Algorithm, str] = {
    "q-learning": "the algorithms of tables (--algorithm q-learning)",
    "dqn": "--algorithm dqn",
    "reinforce": "--algorithm reinforce",
}


def owner_of(setting: str, kind: Kind) -> str:
    """Which algorithms or topologies a setting belongs to that a run of `kind` lacks; empty: none has it."""
    if names := _topologies_with(setting, kind):
        return f"--topology {names}"
    for algorithm, described in _DESCRIBED.items():
        if setting in _names(ENGINE_CONFIGS[kind_of(algorithm)]) | _names(ALGORITHM_CONFIGS[algorithm]):
            return described
    others: list[Kind] = [other for other in TOPOLOGY_CONFIGS if other != kind]
    names = " or ".join(filter(None, (_topologies_with(setting, other) for other in others)))
    return f"--topology {names}" if names else ""


def _topologies_with(setting: str, kind: Kind) -> str:
    return " or ".join(name for name, config in TOPOLOGY_CONFIGS[kind].items() if setting in _names(config))


def _names(config: Any) -> set[str]:
    return {item.name for item in fields(config)}


def with_values(settings: Settings, values: dict[str, Any]) -> Settings:
    """The settings with some fields replaced, each in the section that has it.

    Raises KeyError naming the first field that no section has.
    """
    sections = {name: getattr(settings, name) for name in ("run", "engine", "algorithm", "topology")}
    left = dict(values)
    for name, section in sections.items():
        own = {item.name for item in fields(section)}
        chosen = {key: left.pop(key) for key in list(left) if key in own}
        sections[name] = replace(section, **chosen)
    if left:
        raise KeyError(next(iter(left)))
    return replace(settings, **sections)
