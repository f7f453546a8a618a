"""Parallel and distributed Q-learning.

A learner improves values of an environment; a topology says who learns and what they tell one another; a
backend says where they run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qfleet.version import __version__ as __version__

if TYPE_CHECKING:
    from qfleet.agent import Agent
    from qfleet.errors import DamagedError, FleetError, NonFiniteError, QfleetError
    from qfleet.experiment import begin, resume, train
    from qfleet.racing import Race, race
    from qfleet.run import Run, load, load_run
    from qfleet.training import Status, Training
    from qfleet.worlds.mdp import MDP
    from qfleet.worlds.world import World

__all__ = [
    "MDP",
    "Agent",
    "DamagedError",
    "FleetError",
    "NonFiniteError",
    "QfleetError",
    "Race",
    "Run",
    "Status",
    "Training",
    "World",
    "begin",
    "load",
    "load_run",
    "race",
    "resume",
    "train",
]

_MODULES = {
    "qfleet.agent": ("Agent",),
    "qfleet.errors": ("DamagedError", "FleetError", "NonFiniteError", "QfleetError"),
    "qfleet.experiment": ("begin", "resume", "train"),
    "qfleet.racing": ("Race", "race"),
    "qfleet.run": ("Run", "load", "load_run"),
    "qfleet.training": ("Status", "Training"),
    "qfleet.worlds.mdp": ("MDP",),
    "qfleet.worlds.world": ("World",),
}


def __getattr__(name: str) -> Any:
    # Importing numba takes most of half a second, which `qfleet --help` need not wait for.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'qfleet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
