"""Which topology of networks runs on which backend."""

from typing import Literal

from qfleet.errors import QfleetError

Backend = Literal["threads", "processes", "ray", "mpi"]

_SERVICES: tuple[Backend, ...] = ("threads", "processes", "ray")
_GROUPS: tuple[Backend, ...] = (*_SERVICES, "mpi")

BACKENDS: dict[str, tuple[Backend, ...]] = {
    "overlapped": ("threads",),
    "serial": ("threads",),
    "averaged": _GROUPS,
    "data-parallel": _GROUPS,
    "model-parallel": ("processes", "ray", "mpi"),
    "pooled": _SERVICES,
    "asynchronous": _SERVICES,
    "async-n-step": _SERVICES,
    "parameter-server": _SERVICES,
    "ape-x": _SERVICES,
}
"""The default first; what is not in it is refused. MPI has groups alone, no services that are called one by one."""


def is_of_services(topology: str) -> bool:
    """Whether its members are called one by one, so that one that is lost is replaced alone."""
    return BACKENDS.get(topology) == _SERVICES


def refuse_unsupported_backend(topology: str, backend: str, topologies: tuple[str, ...]) -> None:
    """Raises QfleetError for a combination outside the matrix, naming those of an algorithm's topologies that work."""
    known = BACKENDS[topology]
    if backend in known:
        return
    others = [name for name in topologies if backend in BACKENDS[name]]
    if len(known) == 1:
        raise QfleetError(
            f"--backend {backend}: --topology {topology} learns in this process, and --engine processes steps its "
            f"environments in others; with --backend {backend} work {', '.join(others)}"
        )
    raise QfleetError(
        f"--topology {topology} does not run with --backend {backend}; {', '.join(known)} work, and with --backend "
        f"{backend} {', '.join(others)}"
    )
