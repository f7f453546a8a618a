"""Settings that are known to work, by environment; a run begins from these and the user's flags go on top.

Every entry is measured in docs/benchmarks.md. Keys are fields of the four config dataclasses.
"""

from dataclasses import fields, replace
from fnmatch import fnmatch
from typing import Any

from qfleet.settings import TOPOLOGY_CONFIGS, Settings, TopologyName

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


def is_tuned(environment: str) -> bool:
    """Whether settings are shipped for this id."""
    return any(fnmatch(environment, pattern) for pattern in TUNED)


def default_settings(environment: str, topology: TopologyName = "overlapped") -> Settings:
    """What a run of `environment` begins from."""
    settings = Settings(environment)
    settings = replace(
        settings, run=replace(settings.run, topology=topology), topology=TOPOLOGY_CONFIGS[topology]()
    )
    for pattern, values in TUNED.items():
        if fnmatch(environment, pattern):
            settings = with_values(settings, values)
    return settings


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
