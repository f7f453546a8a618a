"""What `qfleet environments` lists: the ids with discrete actions that are installed here."""

import importlib.util
from dataclasses import dataclass

from gymnasium.envs.registration import EnvSpec, find_highest_version, registry

from qfleet.environments.identifiers import register_family

TUNED = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3")
"""Ids with settings of their own; MinAtar and Atari have settings as families."""

_CONTINUOUS = (
    "BipedalWalker",
    "BipedalWalkerHardcore",
    "CarRacing",
    "LunarLanderContinuous",
    "MountainCarContinuous",
    "Pendulum",
)
_NEEDS = {"phys2d": "jax", "tabular": "jax", "box2d": "Box2D"}
# Games' ids are written here, as importing minatar imports plotting libraries for a second.
_MINATAR = tuple(
    f"MinAtar/{game}-v1" for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
)


@dataclass(frozen=True)
class CatalogueEntry:
    """One line of `qfleet environments`."""

    id: str
    family: str
    engine: str
    """What `auto` picks; a slow one of the user's own may get `processes` instead of `in-process`."""
    extra: str | None
    """What has to be installed beside Qfleet: `pip install "qfleet[extra]"`."""
    is_tuned: bool


def environments() -> list[CatalogueEntry]:
    """The newest version of every environment known to have discrete actions, by family."""
    if importlib.util.find_spec("ale_py") is not None:
        register_family("ALE/")
    # ale_py registers older ids beside its ALE/ ones; they give raw frames and are not for new work.
    known = [spec for spec in registry.values() if spec.namespace or not _is_from(spec, "ale_py")]
    entries = [_entry(spec) for spec in known if _belongs(spec)]
    if importlib.util.find_spec("minatar") is not None:
        entries += [CatalogueEntry(name, "MinAtar", "in-process", "minatar", True) for name in _MINATAR]
    return sorted(entries, key=lambda entry: (entry.family.casefold(), entry.id))


def _belongs(spec: EnvSpec) -> bool:
    family = _family(spec)
    if family in _NEEDS and importlib.util.find_spec(_NEEDS[family]) is None:
        return False
    if family in ("mujoco", "MinAtar", "gym") or spec.name in _CONTINUOUS:
        return False
    return spec.version == find_highest_version(spec.namespace, spec.name)


def _family(spec: EnvSpec) -> str:
    """The namespace, Gymnasium's own folder of environments, or `yours`."""
    if spec.namespace is not None:
        return "Atari" if spec.namespace == "ALE" else spec.namespace
    if spec.name.startswith(("GymV21", "GymV26")):
        return "gym"
    entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
    return entry.split(".")[2] if entry.startswith("gymnasium.envs.") else "yours"


def _is_from(spec: EnvSpec, package: str) -> bool:
    return isinstance(spec.entry_point, str) and spec.entry_point.startswith(f"{package}.")


def _entry(spec: EnvSpec) -> CatalogueEntry:
    family = _family(spec)
    if family == "Atari":
        return CatalogueEntry(spec.id, family, "ale", "atari", True)
    engine = "registered" if spec.vector_entry_point is not None else "in-process"
    return CatalogueEntry(spec.id, family, engine, "box2d" if family == "box2d" else None, spec.id in TUNED)
