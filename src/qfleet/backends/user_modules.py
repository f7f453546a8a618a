"""The user's own modules, which other machines do not have: what comes from them is sent by value."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cloudpickle


@contextmanager
def sent_by_value() -> Iterator[None]:
    """While entered, cloudpickle sends the code of what was imported from the current folder, not its name."""
    modules = list(_of_current_folder())
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _of_current_folder() -> Iterator[ModuleType]:
    """Top-level modules and packages; not those installed in a virtual environment there, nor this package."""
    folder, known = Path.cwd(), cloudpickle.list_registry_pickle_by_value()
    for name, module in list(sys.modules.items()):
        if "." in name or name in ("__main__", "qfleet") or name in known:
            continue
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        if any(place and _is_own(Path(place), folder) for place in places):
            yield module


def _is_own(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) and not {"site-packages", "dist-packages"} & set(path.parts)
