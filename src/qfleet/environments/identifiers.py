"""From an id that somebody typed to a specification, or to one line that says which id works."""

import difflib
import importlib
import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import EnvSpec, find_highest_version, parse_env_id, registry

from qfleet.errors import QfleetError

_EXTRAS = {
    "ale_py": "atari",
    "minatar": "minatar",
    "seaborn": "minatar",
    "envpool": "envpool",
    "Box2D": "box2d",
    "box2d": "box2d",
    "pygame": "play",
}


def missing_package(error: ImportError | gymnasium.error.DependencyNotInstalled, name: str) -> QfleetError:
    """The one line that says which extra brings what `name` needs."""
    text = f"{error} {error.__cause__ or ''} {getattr(error, 'name', None) or ''}"
    for package, extra in _EXTRAS.items():
        if package in text:
            return QfleetError(f'{name} needs a package that is not installed: pip install "qfleet[{extra}]"')
    return QfleetError(f"{name} needs a package that is not installed: {str(error).splitlines()[0]}")


def import_modules(modules: tuple[str, ...]) -> None:
    """Imports the user's modules, looking in the current folder too."""
    folder = str(Path.cwd())
    if modules and folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise QfleetError(f"--import {module}: {error}; it was looked for in {folder} too") from error


def register_family(name: str) -> None:
    """Imports the package that registers ids of the name's family (ALE/, MinAtar/), quietly."""
    if name.startswith("ALE/") and not any(known.startswith("ALE/") for known in registry):
        _import_quietly("ale_py", name)
        ale_py = importlib.import_module("ale_py")
        gymnasium.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    if name.startswith("MinAtar/") and not any(known.startswith("MinAtar/") for known in registry):
        _import_quietly("minatar.gym", name)
        importlib.import_module("minatar.gym").register_envs()


def _import_quietly(module: str, name: str) -> None:
    """Imports a package that logs and warns about plotting libraries while it is imported."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ImportError as error:
        raise missing_package(error, name) from error
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]


def find_spec(environment: str) -> EnvSpec | None:
    """Gymnasium's specification of an id ("module:Id" imports the module first); None if it knows none.

    Raises QfleetError where the id is an old version, or a package that registers it is missing.
    """
    module, _, name = environment.rpartition(":")
    if module:
        import_modules((module,))
    register_family(name)
    try:
        namespace, bare, version = parse_env_id(name)
    except gymnasium.error.Error:
        return None
    if version is None and name not in registry:
        latest = find_highest_version(namespace, bare)
        return registry.get(f"{name}-v{latest}")
    if name not in registry:
        latest = find_highest_version(namespace, bare)
        # A newer version than Gymnasium's may be EnvPool's own.
        if latest is not None and (latest > (version or 0) or name not in envpool_ids()):
            works = name.replace(f"-v{version}", f"-v{latest}")
            raise QfleetError(f"{name} is not a version that this Gymnasium has; {works} works")
    return registry.get(name)


def unknown(environment: str) -> QfleetError:
    """The error that names the ids nearest to an unknown one."""
    folded = {known.casefold(): known for known in [*registry, *envpool_ids()]}
    by_name = {known.rpartition("/")[2]: known for known in folded}
    asked = environment.casefold()
    near = difflib.get_close_matches(asked, folded, n=3, cutoff=0.5)
    near += [by_name[match] for match in difflib.get_close_matches(asked, by_name, n=3, cutoff=0.5)]
    names = list(dict.fromkeys(folded[match] for match in near))[:3]
    nearest = f"; the nearest are {', '.join(names)}" if names else ""
    return QfleetError(
        f"environment {environment!r} is unknown{nearest} (`qfleet environments` lists them, --import MODULE "
        "registers yours)"
    )


def envpool_ids() -> list[str]:
    """The ids EnvPool knows; none where it is not installed."""
    if importlib.util.find_spec("envpool") is None:
        return []
    try:
        return importlib.import_module("envpool").list_all_envs()
    except ImportError:
        return []
