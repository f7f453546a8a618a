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
    "Acrobot-v1": {"steps": 100_000, "num_envs": 8, "block_steps": 64},
    "MountainCar-v0": {"steps": 200_000, "num_envs": 8, "block_steps": 64},
    "LunarLander-v3": {"steps": 200_000, "num_envs": 8, "block_steps": 64},
    "MinAtar/*": {"steps": 1_000_000, "num_envs": 8, "block_steps": 64},
    "ALE/*": {"steps": 10_000_000, "num_envs": 8, "block_steps": 64},
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
