"""What an MPI launcher (mpiexec, srun) says in the environment of the processes that it starts."""

import os
from collections.abc import Mapping

_OF_LAUNCHERS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
"""One of them is set in each of its processes, and says which of them it is."""
_LOCAL_OF_LAUNCHERS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""The same, counted on each machine anew."""
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_PREFIXES = ("OMPI_", "OPAL_", "PMIX_", "PMI_", "PRTE_", "HYDRA_", "MPI_LOCAL", "MPIR_")


def is_launched() -> bool:
    """Whether this process is one of those that a launcher started together."""
    return any(name in os.environ for name in _OF_LAUNCHERS)


def num_launched() -> int:
    """How many processes it started together, as far as it says; 1 without a launcher."""
    return int(next((os.environ[name] for name in _SIZES if name in os.environ), "1"))


def is_first_on_its_machine() -> bool:
    """Whether it is the one of them that speaks for this machine, before MPI itself can be asked."""
    found = [os.environ[name] for name in (*_LOCAL_OF_LAUNCHERS, *_OF_LAUNCHERS) if name in os.environ]
    return not found or found[0] == "0"


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process, which must not take itself for its parent's rank."""
    return {name: value for name, value in environ.items() if not name.startswith(_PREFIXES)}
