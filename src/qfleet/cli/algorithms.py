"""`qfleet algorithms`: what can improve the values."""

from collections.abc import Sequence
from dataclasses import dataclass

from qfleet.choices import TOPOLOGY_CONFIGS, Algorithm
from qfleet.cli.output import lines
from qfleet.cli.parsing import parse
from qfleet.tabular.support import CUT_AT_BORDERS, SUPPORTED, TABLE_TOPOLOGIES, Stepping

_IDEAS: dict[Algorithm, str] = {
    "q-learning": "towards the best action's value (Watkins 1989)",
    "double-q-learning": "two tables, each valued by the other: no bias towards lucky actions (van Hasselt 2010)",
    "sarsa": "towards the value of the action taken next (Rummery and Niranjan 1994)",
    "expected-sarsa": "towards the mean value under the way it explores (van Seijen et al. 2009)",
    "tree-backup": "towards several steps at once, without importance weights (Precup et al. 2000)",
    "watkins-q-lambda": "Q-learning with traces, cut where an action was not the best (Watkins 1989)",
    "dqn": "a Q-network from a replay (Mnih et al. 2015), with its later additions",
    "reinforce": "a policy network, by the gradient of whole episodes (Williams 1992)",
}

_STEPPINGS: dict[Stepping, str] = {
    "compiled": "worlds",
    "python": "stepped in Python",
    "tiles": "tile coding",
}


@dataclass(frozen=True)
class AlgorithmsFlags:
    """Lists what --algorithm can be, and which topologies each works with."""


def main(arguments: Sequence[str]) -> int:
    """Prints each algorithm with its idea, then the matrix of algorithms and topologies."""
    parse("algorithms", AlgorithmsFlags, arguments)
    print(lines(list(_IDEAS.items())))
    print(f"\n{_matrix()}\n\n{_notes()}")
    return 0


def _matrix() -> str:
    """Which topologies a rule works with: in worlds, stepped in Python, with tile coding."""
    rows = [("", "  ".join(TABLE_TOPOLOGIES))]
    rows += [
        (rule, "  ".join(_cell(rule, name).ljust(len(name)) for name in TABLE_TOPOLOGIES))
        for rule in SUPPORTED["compiled"]
    ]
    rows.append(("dqn", f"topologies {', '.join(TOPOLOGY_CONFIGS['deep'])}"))
    rows.append(("reinforce", f"topologies {', '.join(TOPOLOGY_CONFIGS['policy'])}"))
    return "\n".join(line.rstrip() for line in lines(rows).splitlines())


def _cell(rule: str, topology: str) -> str:
    letters = ""
    for stepping, letter in zip(_STEPPINGS, "wpt", strict=True):
        if topology in {str(name): names for name, names in SUPPORTED[stepping].items()}.get(rule, ()):
            letters += letter
    return letters or "-"


def _notes() -> str:
    letters = ", ".join(f"{letter}: {text}" for letter, text in zip("wpt", _STEPPINGS.values(), strict=True))
    return f"{letters}; under partitioned, {' and '.join(CUT_AT_BORDERS)} look back no further than the last border"
