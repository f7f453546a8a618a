"""From whatever the user names or hands in to a world that kernels step, where it is one."""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gymnasium import Env, spaces, wrappers
from gymnasium.envs.registration import registry

from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.identifiers import find_spec, import_modules
from qfleet.environments.single import EnvironmentSource, SingleFactory, make_quietly
from qfleet.environments.wrapping import parse_options, wrapper_chain
from qfleet.errors import QfleetError
from qfleet.worlds.catalogue import make_world
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

_WITHOUT_TABLE = ("ALE/", "MinAtar/")
"""Families of ids that need not be made to know that they have no table of transitions."""

_HARMLESS = (wrappers.TimeLimit, wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)
"""Wrappers that leave observations, actions and rewards as they are, so that the table still holds."""


def find_world(
    source: Any, options: Mapping[str, str], imported: tuple[str, ...] = ()
) -> "World | MDP | None":
    """The world that `source` stands for; None if it is none and has to be stepped as Python.

    `source`: a World or an MDP; a name of the catalogue (GridWorld-64); "module:NAME" of a World, an MDP or a
    function without arguments that makes one; a Gymnasium id or environment whose transitions are in a table
    `P`. `options` go to the catalogue's worlds and to Gymnasium; `imported` modules are imported first. Raises
    QfleetError where a name cannot be found, or options are given to what takes none.
    """
    import_modules(imported)
    if _is_world(source):
        _refuse_options(source.name, options)
        return source
    if isinstance(source, Env):
        return _of_environment(source)
    if not isinstance(source, str):
        return None
    world = make_world(source, options)
    if world is not None:
        return world
    if ":" in source:
        found = named_in_module(source)
        if found is not None:
            _refuse_options(source, options)
            return found
    return _of_id(source, options)


def is_discrete(environment: EnvironmentSource, config: EnvironmentConfig) -> bool:
    """Whether observations, after the wrappers, are Discrete, MultiDiscrete, or a Tuple of Discrete ones.

    Then a table can hold the values. The environment is made once and closed, but for Atari's and MinAtar's ids.
    """
    factory = SingleFactory(environment, config)
    if isinstance(environment, str) and factory.name.startswith(_WITHOUT_TABLE):
        return False
    if isinstance(environment, str):
        import_modules(config.import_modules)
        spec = find_spec(environment)
        if spec is None or spec.entry_point is None:
            return False
    single = factory.make()
    try:
        return _is_countable(single.env.observation_space)
    finally:
        if not factory.is_object:
            single.env.close()


def _is_countable(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Tuple):
        return all(_is_countable(inner) for inner in space.spaces)
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete)


def _is_world(value: Any) -> bool:
    """Whether it is a World or an MDP; the module of the latter need not be imported to know that it is none."""
    if isinstance(value, World):
        return True
    module = sys.modules.get("qfleet.worlds.mdp")
    return module is not None and isinstance(value, module.MDP)


def _refuse_options(name: str, options: Mapping[str, str]) -> None:
    if options:
        raise QfleetError(
            f"environment options ({', '.join(options)}) work with names and ids; set them where {name} is made"
        )


def named_in_module(source: str) -> "World | MDP | None":
    """What "module:NAME" names; None if NAME is an id for Gymnasium, or something that is no world."""
    module_name, _, attribute = source.rpartition(":")
    module = _import(module_name)
    if not hasattr(module, attribute):
        if _could_be_id(attribute):
            return None
        raise _no_such_attribute(module, module_name, attribute)
    value = getattr(module, attribute)
    if _is_maker(value):
        value = _call(value, source)
        if not _is_world(value) and not isinstance(value, Env):
            raise QfleetError(f"{source} returned {type(value).__name__}; it should return a World or an MDP")
    if _is_world(value):
        return cast("World | MDP", value)
    if isinstance(value, Env) or _could_be_id(attribute):
        return None
    raise QfleetError(
        f"{source} is of type {type(value).__name__}; it should be a World, an MDP or a function without arguments "
        "that makes one"
    )


def _import(name: str) -> Any:
    """Imports a module, from the current folder too; a fault inside it is told in one line."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise QfleetError(
                f"there is no module {error.name}; it was looked for in {folder} too"
            ) from error
        raise QfleetError(f"module {name} cannot be imported: {error}") from error
    except QfleetError as error:
        raise QfleetError(f"module {name} cannot be imported: {error}") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise QfleetError(f"module {name} cannot be imported: {reason}") from error


def _could_be_id(name: str) -> bool:
    return name in registry or re.search(r"-v\d+$", name) is not None


def _no_such_attribute(module: Any, module_name: str, attribute: str) -> QfleetError:
    worlds = [name for name, value in vars(module).items() if _is_world(value)]
    near = difflib.get_close_matches(attribute, worlds, 3, cutoff=0.3) or worlds[:3]
    has = f"its worlds are {', '.join(near)}" if near else "it has no World or MDP"
    return QfleetError(f"module {module_name} has no {attribute}; {has}")


def _is_maker(value: Any) -> bool:
    """Whether it is a function that can be called without arguments."""
    if not inspect.isfunction(value):
        return False
    parameters = inspect.signature(value).parameters.values()
    return all(
        item.default is not item.empty or item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
        for item in parameters
    )


def _call(function: Callable[[], Any], source: str) -> Any:
    try:
        return function()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise QfleetError(f"{source}() failed: {reason}") from error


def _of_id(source: str, options: Mapping[str, str]) -> "MDP | None":
    spec = find_spec(source)
    if spec is None or spec.entry_point is None or spec.id.startswith(_WITHOUT_TABLE):
        return None
    given = parse_options(tuple(f"{key}={value}" for key, value in options.items()))
    environment = make_quietly(spec.id, given)
    try:
        return _of_environment(environment)
    finally:
        environment.close()


def _of_environment(environment: Env) -> "MDP | None":
    """The environment's own table of transitions as an explicit MDP; None where it has none."""
    has_table = isinstance(getattr(environment.unwrapped, "P", None), dict)
    if not has_table or not all(isinstance(item, _HARMLESS) for item in wrapper_chain(environment)[:-1]):
        return None
    from qfleet.worlds.mdp import MDP

    return MDP.from_gymnasium(environment)
