"""The user's own modules, which other machines do not have: their sources travel, and are imported there."""

import sys
from collections.abc import Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, final

Sources = dict[str, tuple[str, str]]
"""Where each module's file lies on the driver's machine, and its text."""


def own_sources() -> Sources:
    """All Python files of what was imported from the current folder, or from that of the program."""
    found: Sources = {}
    folders = _own_folders()
    for name, module in list(sys.modules.items()):
        if "." not in name and name not in ("__main__", "qfleet"):
            found |= _sources_of(name, module, folders)
    return found


def _own_folders() -> list[Path]:
    program = getattr(sys.modules["__main__"], "__file__", None)
    return [Path.cwd(), *([Path(program).resolve().parent] if program else [])]


def _sources_of(name: str, module: ModuleType, folders: Sequence[Path]) -> Sources:
    """Of a top-level module, or of a package with all that is in it."""
    if places := list(getattr(module, "__path__", ())):
        own = next((Path(place) for place in places if _is_own(Path(place), folders)), None)
        return {} if own is None else _in_package(name, own)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or not _is_own(Path(file), folders):
        return {}
    return {name: (file, Path(file).read_text(encoding="utf-8"))}


def _in_package(package: str, place: Path) -> Sources:
    """Its files; folders in it without an __init__.py are packages too."""
    folders: Sources = {package: (str(place / "__init__.py"), "")}
    modules: Sources = {}
    for file in place.rglob("*.py"):
        inner = file.relative_to(place).with_suffix("").parts
        if not all(part.isidentifier() for part in inner):
            continue
        for depth in range(1, len(inner)):
            folder = place.joinpath(*inner[:depth])
            folders[".".join([package, *inner[:depth]])] = (str(folder / "__init__.py"), "")
        name = inner[:-1] if inner[-1] == "__init__" else inner
        modules[".".join([package, *name])] = (str(file), file.read_text(encoding="utf-8"))
    return folders | modules


def _is_own(path: Path, folders: Sequence[Path]) -> bool:
    """Not what is installed in a virtual environment there."""
    path = path.resolve()
    is_installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not is_installed and any(path.is_relative_to(folder) for folder in folders)


@final
class SentModules(MetaPathFinder, ExecutionLoader):
    """Imports modules from sources that were sent, before any that lie on this machine."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def install(self) -> None:
        """From now on `import` finds them."""
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        return spec_from_loader(fullname, self) if fullname in self._sources else None

    def get_filename(self, fullname: str) -> str:
        """As on the driver's machine, for tracebacks."""
        return self._sources[fullname][0]

    def get_source(self, fullname: str) -> str:
        """The text."""
        return self._sources[fullname][1]

    def is_package(self, fullname: str) -> bool:
        """Whether it has modules of its own."""
        return self.get_filename(fullname).endswith("__init__.py")
