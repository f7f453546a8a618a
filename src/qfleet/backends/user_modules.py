"""The user's own modules, which other machines do not have: their sources travel, and are imported there."""

import sys
from collections.abc import Iterator, Sequence
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
        own = [Path(place) for place in places if _is_own(Path(place), folders)]
        return dict(pair for place in own for pair in _in_package(name, place))
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or not _is_own(Path(file), folders):
        return {}
    return {name: (file, Path(file).read_text())}


def _in_package(package: str, place: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    yield package, (str(place / "__init__.py"), "")  # a folder without that file is a package too
    for file in sorted(place.rglob("*.py")):
        inner = file.relative_to(place).with_suffix("").parts
        if all(part.isidentifier() for part in inner):
            parts = [package, *(inner[:-1] if inner[-1] == "__init__" else inner)]
            yield ".".join(parts), (str(file), file.read_text())


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
