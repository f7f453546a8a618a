"""MPI jobs of one to four ranks do what every group does, and learn what threads learn; see mpi_conformance.py."""

import re
import time
from pathlib import Path

import pytest

from tests.backends.mpiexec import ROOT, finish, start

TESTS = ROOT / "tests" / "backends"
OF_OTHER_SIZES = "not at_every_call and not close_frees"
RANKS = [3, *(pytest.param(ranks, marks=pytest.mark.soak) for ranks in (1, 2, 4))]
"""Sums of three numbers differ where the order of adding does: that for every day."""


def run_tests(ranks: int, *arguments: object) -> int:
    """How many passed; none failed."""
    code, out, err = finish(start(ROOT, ranks, "-m", "tests.backends.mpi_conformance", *arguments), 200)
    assert code == 0, (out, err)
    found = re.search(r"(\d+) passed", out)
    assert found is not None and "failed" not in out, out
    return int(found[1])


@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_are_a_group(ranks: int) -> None:
    assert run_tests(ranks, TESTS / "test_groups.py", "-m", "not soak") >= 28


@pytest.mark.soak
def test_ranks_are_a_group_for_very_large_messages() -> None:
    assert run_tests(2, TESTS / "test_groups.py", "-m", "soak") >= 1


def test_a_rank_that_fails_is_named_by_the_others() -> None:
    assert run_tests(3, TESTS / "test_group_failures.py", "-k", OF_OTHER_SIZES) >= 5


@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_learn_the_tables_of_threads(ranks: int) -> None:
    assert run_tests(ranks, TESTS / "mpi_ranks.py") >= 15


def test_a_program_that_raises_ends_its_job_with_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from qfleet.backends.mpi_job import run_job\n"
        "def main():\n    raise ValueError('no such thing')\n"
        "raise SystemExit(run_job(main))\n"
    )
    code, out, err = finish(start(tmp_path, 3, script))
    assert code == 1 and err.count("ValueError: no such thing") == 1 and out == "", err


def test_a_program_that_returns_nothing_has_succeeded(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from qfleet.backends.mpi_job import run_job\n"
        "def main():\n    print('done')\n"
        "raise SystemExit(run_job(main))\n"
    )
    code, out, err = finish(start(tmp_path, 2, script))
    assert code == 0 and out.strip() == "done", err


def test_a_rank_that_never_joins_ends_the_job_with_where_the_others_wait(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from qfleet.backends import mpi_job\n"
        "mpi_job._JOIN_SECONDS = 2.0\n"
        "if os.environ['OMPI_COMM_WORLD_RANK'] == '1':\n    time.sleep(60)\n"
        "raise SystemExit(mpi_job.run_job(lambda: 0))\n"
    )
    started = time.monotonic()
    code, _, err = finish(start(tmp_path, 2, script))
    assert code == 1 and time.monotonic() - started < 30, err
    assert err.count("Timeout (0:00:02)!") == 1 and "in join" in err, err


def test_a_program_that_has_not_joined_its_job_is_told_how(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import qfleet\n"
        "try:\n    qfleet.train('GridWorld-4', topology='averaged', backend='mpi', workers=2)\n"
        "except qfleet.QfleetError as error:\n    print(error)\n"
    )
    code, out, _ = finish(start(tmp_path, 1, script))
    assert code == 0 and "has not joined its MPI job" in out and "run_job(main)" in out
