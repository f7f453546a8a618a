"""`qfleet environments`: what can be trained on here."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

import tyro

from qfleet.cli.parsing import parse
from qfleet.environments.catalogue import CatalogueEntry, environments
from qfleet.environments.identifiers import import_modules
from qfleet.worlds.catalogue import WORLD_NAMES


@dataclass(frozen=True)
class EnvironmentsFlags:
    """Lists worlds and the installed environments with discrete actions; a star marks those with tuned settings."""

    import_modules: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()
    """Modules to import first, because they register environments; the current folder is searched too."""


def main(arguments: Sequence[str]) -> int:
    """Prints the list, by family."""
    import_modules(parse("environments", EnvironmentsFlags, arguments).import_modules)
    print(_worlds())
    for family, entries in groupby(environments(), key=lambda entry: entry.family):
        print(_section(family, list(entries)))
    print(
        "* has tuned settings. --import MODULE adds environments of your own; qfleet doctor lists extras with more."
    )
    return 0


def _worlds() -> str:
    width = max(map(len, WORLD_NAMES))
    lines = [f"  {name:{width}}  {summary}" for name, summary in WORLD_NAMES.items()]
    return "\n".join(
        ["Worlds (stepped by the learning kernels; any size, `module:NAME` for your own)", *lines, ""]
    )


def _section(family: str, entries: list[CatalogueEntry]) -> str:
    first = entries[0]
    extra = "" if first.extra is None else f", from the extra {first.extra}"
    names = [f"  {entry.id}{' *' if entry.is_tuned else ''}" for entry in entries]
    return "\n".join([f"{family} (engine {first.engine}{extra})", *names, ""])
