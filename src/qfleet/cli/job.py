"""A command line that all ranks of an MPI job were started with, and that only rank 0 runs."""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qfleet.errors import QfleetError
from qfleet.launcher import is_first_on_its_machine, is_launched, num_launched

_SILENT_EXIT_SECONDS = 0.5


def is_of_job(arguments: Sequence[str]) -> bool:
    """Whether a launcher started it, for a run on the backend mpi: as the flag says, else as the run's config does."""
    if not is_launched() or arguments[:1] not in (["train"], ["resume"]):
        return False
    values = _values_of("backend", arguments)
    if arguments[0] == "train":
        return "mpi" in values or (not values and _any_on_mpi(_values_of("config", arguments)))
    return _any_on_mpi(arguments[1:])


def are_copies(arguments: Sequence[str]) -> bool:
    """Whether a launcher started several of the same run, each of which would be a run of its own."""
    return arguments[:1] == ["train"] and not is_of_job(arguments) and num_launched() > 1


def refuse_copies() -> int:
    """Raises QfleetError, on one rank of a machine."""
    if not is_first_on_its_machine():
        return 0
    time.sleep(_SILENT_EXIT_SECONDS)
    raise QfleetError(
        f"this run was started {num_launched()} times by mpiexec, and each would be a run of its own; with "
        "--backend mpi they are the workers of one"
    )


def run_in_job(program: Callable[[], int]) -> int:
    """Runs it on rank 0, for which the other ranks work.

    QfleetError where there is no MPI, on one rank of a machine: once is enough.
    """
    from qfleet.backends.mpi_launch import refuse_without_mpi

    try:
        refuse_without_mpi()
    except QfleetError:
        if not is_first_on_its_machine():
            return 0
        time.sleep(
            _SILENT_EXIT_SECONDS
        )  # of those that are still there when one fails, mpiexec makes many words
        raise
    from qfleet.backends.mpi_job import run_job

    return run_job(program)


def _values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    values = [text.partition("=")[2] for text in arguments if text.startswith(f"--{flag}=")]
    pairs = itertools.pairwise(arguments)
    return values + [value for text, value in pairs if text == f"--{flag}"]


def _any_on_mpi(paths: Sequence[str]) -> bool:
    return any(_is_on_mpi(Path(path)) for path in paths)


def _is_on_mpi(path: Path) -> bool:
    """Whether it is a run's folder, or its config.json, of the backend mpi; what cannot be read is found out later."""
    try:
        config = json.loads((path / "config.json" if path.is_dir() else path).read_bytes())
        return config["run"]["backend"] == "mpi"
    except (OSError, ValueError, LookupError, TypeError):
        return False
