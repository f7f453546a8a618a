"""Which topology of networks runs on which backend."""

from qfleet.errors import QfleetError

_SERVICES = ("threads", "processes", "ray")
_GROUPS = ("threads", "processes", "ray", "mpi")

BACKENDS: dict[str, tuple[str, ...]] = {
    "overlapped": ("threads",),
    "serial": ("threads",),
    "averaged": _GROUPS,
    "data-parallel": _GROUPS,
    "model-parallel": ("processes", "ray", "mpi"),
    "pooled": _SERVICES,
}
"""What is not in it is refused. MPI has groups alone, no services that are called one by one."""


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
