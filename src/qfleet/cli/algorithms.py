"""`qfleet algorithms`: what can improve the values."""

from collections.abc import Sequence
from dataclasses import dataclass

from qfleet.cli.output import lines
from qfleet.cli.parsing import parse
from qfleet.settings import ALGORITHM_CONFIGS


@dataclass(frozen=True)
class AlgorithmsFlags:
    """Lists what --algorithm can be."""


def main(arguments: Sequence[str]) -> int:
    """Prints each algorithm with the first line of what its settings say about it."""
    parse("algorithms", AlgorithmsFlags, arguments)
    print(
        lines([(name, (config.__doc__ or "").splitlines()[0]) for name, config in ALGORITHM_CONFIGS.items()])
    )
    return 0
