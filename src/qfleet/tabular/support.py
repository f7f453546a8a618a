"""Which rule works under which topology, on which backend, and for which way of stepping."""

from typing import Literal, get_args

from qfleet.errors import QfleetError
from qfleet.tabular.program import Rule

Stepping = Literal["compiled", "python", "tiles"]
"""In the learning kernel; one step at a time in Python; the same over tile coding instead of a table."""

TABLE_TOPOLOGIES = ("serial", "shared", "averaged", "partitioned", "parameter-server", "asynchronous")
SERVICES = ("parameter-server", "asynchronous")
"""Those whose members are called one by one: MPI has groups alone, and there are no rounds."""
_OF_ALL_RULES = TABLE_TOPOLOGIES[:-1]
_TILED = ("serial", "shared", "averaged")
_IN_PYTHON = (*_TILED, "parameter-server")
_TILED_RULES: tuple[Rule, ...] = ("q-learning", "sarsa", "expected-sarsa")

SUPPORTED: dict[Stepping, dict[Rule, tuple[str, ...]]] = {
    "compiled": {**dict.fromkeys(get_args(Rule), _OF_ALL_RULES), "q-learning": TABLE_TOPOLOGIES},
    "python": dict.fromkeys(get_args(Rule), _IN_PYTHON),
    "tiles": dict.fromkeys(_TILED_RULES, _TILED),
}
"""Topologies by rule by stepping; what is not in it is refused. Under partitioned, the n-step returns of tree-backup
and the traces of watkins-q-lambda are cut where a walker crosses a border."""

CUT_AT_BORDERS: tuple[Rule, ...] = ("tree-backup", "watkins-q-lambda")
"""Rules that look back further than a step, and under partitioned only as far as the last border."""

_NAMES: dict[Stepping, str] = {
    "compiled": "in compiled worlds",
    "python": "in environments stepped in Python",
    "tiles": "with tile coding",
}


def refuse_unsupported(rule: Rule, topology: str, backend: str, stepping: Stepping) -> None:
    """Raises QfleetError for a combination outside the matrix, naming those that work."""
    rules = SUPPORTED[stepping]
    if rule not in rules:
        raise QfleetError(f"{rule} does not work {_NAMES[stepping]}; {', '.join(rules)} do")
    if topology not in rules[rule]:
        raise QfleetError(
            f"--topology {topology} does not work with --algorithm {rule} {_NAMES[stepping]}; "
            f"{', '.join(rules[rule])} do"
        )
    if topology == "serial" and backend != "threads":
        raise QfleetError(
            f"--backend {backend} with --topology serial: its one worker runs in this process; leave --backend out"
        )
    if topology == "shared" and backend in ("mpi", "ray"):
        others = " and ".join(name for name in rules[rule] if name in ("averaged", "partitioned"))
        raise QfleetError(
            f"--topology shared with --backend {backend}: the table would have to be one for all workers, which "
            f"share no memory; {others} work{'s' * (' ' not in others)}"
        )
    if topology in SERVICES and backend == "mpi":
        others = ", ".join(name for name in rules[rule] if name not in (*SERVICES, "serial", "shared"))
        raise QfleetError(
            f"--topology {topology} does not run with --backend mpi, whose ranks work in rounds; threads, processes "
            f"and ray do, and with --backend mpi {others}"
        )
    if stepping != "compiled" and topology != "serial" and backend == "threads":
        raise QfleetError(
            f"--backend {backend} {_NAMES[stepping]}: Python steps one thread at a time; --backend processes works"
        )
