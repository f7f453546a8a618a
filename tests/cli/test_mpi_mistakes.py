"""What does not go together with MPI: one line, once and not once a rank, and exit code 2."""

import time
from pathlib import Path

import pytest
from conftest import Call
from tests.backends.mpiexec import ENVIRONMENT, finish, start

UNDER_MPIEXEC = {
    "GridWorld-16 --topology averaged --workers 3": "--workers 3: this MPI job has 2 ranks, and each is one worker",
    "GridWorld-16 --topology shared": "share no memory; averaged and partitioned work",
    "GridWorld-16": "--backend mpi with --topology serial",
    "CartPole-v1": "with --backend mpi work averaged, data-parallel, model-parallel",
    "GridWorld-16 --topology averaged --stepz 4": "no flag --stepz",
}
WITHOUT_IT = {
    "train GridWorld-16 --topology averaged --backend mpi": "which starts its workers: mpiexec -n 2",
    "train GridWorld-16 --topology partitioned --backend mpi --workers 2": "works under mpiexec",
    "train GridWorld-16 --topology shared --backend mpi": "share no memory; averaged and partitioned work",
    "train GridWorld-16 --backend mpi": "leave --backend out",
    "train CartPole-v1 --backend mpi": "with --backend mpi work averaged, data-parallel, model-parallel",
}
LIMIT_SECONDS = 30
"""Two seconds on an idle machine."""


def complaint(folder: Path, *arguments: object, ranks: int = 2, **environment: str) -> str:
    """The one line."""
    started = time.monotonic()
    code, out, err = finish(start(folder, ranks, "-m", "qfleet", *arguments, **environment))
    assert time.monotonic() - started < LIMIT_SECONDS
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and err.startswith("qfleet: "), (out, err)
    assert not (folder / "runs").exists()
    return err


@pytest.mark.parametrize("flags", UNDER_MPIEXEC)
def test_it_is_said_once_under_mpiexec(flags: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, "train", *flags.split(), "--backend", "mpi")
    assert UNDER_MPIEXEC[flags] in said


def test_a_run_without_the_backend_is_not_made_once_a_rank(tmp_path: Path) -> None:
    said = complaint(tmp_path, "train", "GridWorld-16", "--topology", "averaged", "--workers", "2")
    assert (
        "was started 2 times by mpiexec" in said and "with --backend mpi they are the workers of one" in said
    )


def test_without_mpi4py_one_rank_says_what_to_install(tmp_path: Path) -> None:
    """As on a machine that has none: whatever looks for the module does not find it."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import importlib.util\nimport sys\n\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'mpi4py' else find(name, *rest)\n"
        "sys.modules['mpi4py'] = None\n"
    )
    path = f"{tmp_path / 'hidden'}:{ENVIRONMENT['PYTHONPATH']}"
    flags = ("train", "GridWorld-16", "--topology", "averaged", "--backend", "mpi")
    said = complaint(tmp_path, *flags, ranks=3, PYTHONPATH=path)
    assert said == 'qfleet: --backend mpi needs mpi4py: pip install "qfleet[mpi]"\n'


def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path: Path) -> None:
    """Whether it is MPI's cannot be known then: every process says so for itself."""
    code, out, err = finish(start(tmp_path, 2, "-m", "qfleet", "resume", "nowhere"))
    assert code == 2 and out == "" and "qfleet: " in err and "Traceback" not in err


@pytest.mark.parametrize("command", WITHOUT_IT)
def test_without_mpiexec(command: str, call: Call) -> None:
    assert WITHOUT_IT[command] in call(*command.split()).complaint
