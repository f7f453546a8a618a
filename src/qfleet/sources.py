"""What can be learned on, whatever the user names or hands in, and what suits it."""

import sys
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard, Union

from qfleet.choices import Algorithm
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.identifiers import find_spec, import_modules
from qfleet.environments.single import EnvironmentSource, SingleFactory
from qfleet.errors import QfleetError
from qfleet.states.config import StatesConfig
from qfleet.worlds.catalogue import make_world
from qfleet.worlds.gymnasium_env import WorldMaker
from qfleet.worlds.sources import find_world, is_discrete, named_in_module
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

Source = Union[EnvironmentSource, World, "MDP"]
"""An id, "module:NAME", a gymnasium.Env, a function without arguments that makes one, a World or an MDP."""

_NETWORKS_ONLY = ("ALE/", "MinAtar/")
"""Families of ids that are images; looking at more than the id would import their packages."""


def is_world(source: Source) -> "TypeGuard[World | MDP]":
    """Whether it is a World or an MDP; the module of the latter need not be imported to know that it is none."""
    module = sys.modules.get("qfleet.worlds.mdp")
    return isinstance(source, World) or (module is not None and isinstance(source, module.MDP))


def source_name(source: Source) -> str:
    """The id, or the name of the object, class or function handed in."""
    return source.name if is_world(source) else SingleFactory(_of_gymnasium(source), EnvironmentConfig()).name


def _of_gymnasium(source: Any) -> EnvironmentSource:
    return source


def network_source(source: Source, config: EnvironmentConfig) -> tuple[EnvironmentSource, EnvironmentConfig]:
    """What environments of networks are made from, and how: a world is stepped as one of Gymnasium's."""
    if not _is_ours(source, config):
        return _of_gymnasium(source), config
    found = _found(source, config.environment_options, config.import_modules)
    assert found is not None, "it is a world"
    return WorldMaker(found), replace(config, environment_options=())


def _is_ours(source: Source, config: EnvironmentConfig) -> bool:
    """Whether it is a World, an MDP, or the name of one, and nothing that Gymnasium knows by that name."""
    if is_world(source):
        return True
    if not isinstance(source, str) or config.engine == "envpool":
        return False
    import_modules(config.import_modules)
    if ":" in source:
        return named_in_module(source) is not None
    return find_spec(source) is None and make_world(source, _parsed(config.environment_options)) is not None


def gymnasium_source(source: Source, algorithm: Algorithm) -> EnvironmentSource:
    """The same where it is no world; raises QfleetError where it is one."""
    if is_world(source):
        raise QfleetError(
            f"--algorithm {algorithm} needs a Gymnasium environment; {source.name} is a {type(source).__name__}, "
            "of which q-learning learns a table"
        )
    return _of_gymnasium(source)


def world_of(source: Source, states: StatesConfig) -> "World | MDP | None":
    """The world that kernels step; None where `source` has to be stepped in Python, or shall be.

    Raises QfleetError where it shall be compiled and cannot be, and where it can be neither.
    """
    if states.known_stepping in ("python", "tiles"):
        if is_world(source):
            raise QfleetError(
                f"{source.name} is a {type(source).__name__}; leave out --stepping python, --discretize and --wrappers"
            )
        return None
    world = _found(source, states.environment_options, states.import_modules)
    if world is None and states.stepping == "compiled":
        raise QfleetError(
            f"--stepping compiled: {source_name(source)} is no world and has no table of transitions; "
            "--stepping auto steps it in Python"
        )
    return world


def _found(source: Source, options: tuple[str, ...], imported: tuple[str, ...]) -> "World | MDP | None":
    if isinstance(source, str):
        return _found_by_name(source, options, imported)
    return find_world(source, _parsed(options), imported)


@lru_cache(maxsize=1)
def _found_by_name(name: str, options: tuple[str, ...], imported: tuple[str, ...]) -> "World | MDP | None":
    """Kept, since both the defaults of a run and the run itself ask for it, and a large one takes seconds."""
    return find_world(name, _parsed(options), imported)


def _parsed(options: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, _, value in (option.partition("=") for option in options)}


def default_algorithm(source: Source, states: StatesConfig) -> Algorithm:
    """q-learning where a table can hold the values, else dqn."""
    if isinstance(source, str) and source.startswith(_NETWORKS_ONLY):
        return "dqn"
    if states.discretize or is_world(source):
        return "q-learning"
    if world_of(source, states) is not None:
        return "q-learning"
    return "q-learning" if is_discrete(_of_gymnasium(source), states.environments()) else "dqn"


def as_world(found: "World | MDP") -> World:
    """What kernels step, of a World or an MDP."""
    return found if isinstance(found, World) else found.world()
