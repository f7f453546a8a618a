"""mpi4py, kept from doing anything by being imported: a process joins its job in `mpi_job`, and nowhere else."""

import mpi4py

mpi4py.rc(initialize=False, finalize=False)

from mpi4py import MPI  # noqa: E402 - it looks at rc

__all__ = ["MPI"]
