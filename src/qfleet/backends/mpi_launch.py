"""Whether this process is a rank of an MPI job, said without mpi4py, which need not be installed."""

import importlib.util
from typing import TYPE_CHECKING

from qfleet.errors import FleetError
from qfleet.launcher import is_launched

if TYPE_CHECKING:
    from qfleet.backends.mpi_job import MpiJob


def refuse_without_mpi() -> None:
    """FleetError where mpi4py is missing, or finds no MPI library."""
    if importlib.util.find_spec("mpi4py") is None:
        raise FleetError('--backend mpi needs mpi4py: pip install "qfleet[mpi]"')
    try:
        import qfleet.backends.mpi_library  # noqa: F401
    except (ImportError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise FleetError(
            f'--backend mpi: mpi4py finds no MPI library ({first}); pip install "qfleet[mpi]" brings Open MPI'
        ) from error


def this_job() -> "MpiJob":
    """The MPI job that this process has joined; FleetError, saying how to start one, if there is none."""
    refuse_without_mpi()
    from qfleet.backends.mpi_job import current

    job = current()
    if job is not None and job.rank == 0:
        return job
    if is_launched():
        raise FleetError(
            "--backend mpi: this program has not joined its MPI job; qfleet train and qfleet resume do, a script "
            "calls qfleet.backends.mpi_job.run_job(main)"
        )
    raise FleetError(
        "--backend mpi works under mpiexec, which starts its workers: mpiexec -n 2 qfleet train ... (as root: "
        "mpiexec --allow-run-as-root --oversubscribe -n 2 ...)"
    )


def num_ranks() -> int | None:
    """How many there are in the MPI job that this process has joined; None if it has joined none."""
    if not is_launched():
        return None
    refuse_without_mpi()
    from qfleet.backends.mpi_job import current

    job = current()
    return None if job is None else job.size


def checked_job(workers: int) -> "MpiJob":
    """The same; FleetError as well unless it has one rank for every worker."""
    job = this_job()
    if workers != job.size:
        raise FleetError(
            f"--workers {workers}: this MPI job has {job.size} ranks, and each is one worker; leave --workers out, "
            f"or start mpiexec -n {workers}"
        )
    return job
