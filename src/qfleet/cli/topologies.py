"""`qfleet topologies`: who can learn and what they tell one another."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from qfleet.choices import TOPOLOGY_CONFIGS, Kind
from qfleet.cli.output import lines
from qfleet.cli.parsing import parse
from qfleet.topologies.serial import TableSerialConfig

_TITLES: dict[Kind, str] = {"table": "tables", "deep": "networks", "policy": "policies"}


@dataclass(frozen=True)
class TopologiesFlags:
    """Lists what --topology can be."""


def main(arguments: Sequence[str]) -> int:
    """Prints each topology with the first line of its module, which is the idea of it."""
    parse("topologies", TopologiesFlags, arguments)
    for kind, title in _TITLES.items():
        print(title)
        print(lines([(f"  {name}", _idea(config)) for name, config in TOPOLOGY_CONFIGS[kind].items()]))
    return 0


def _idea(config: type) -> str:
    if config is TableSerialConfig:
        return "one worker steps its walkers in turn and learns from every step"
    first = (sys.modules[config.__module__].__doc__ or "").splitlines()[0]
    return first.partition(": ")[2] or first
