"""What a process knows of its MPI job before it joins it, and messages as bytes: nothing here needs mpiexec."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from qfleet.backends.mpi_messages import FIRST_BYTES, Header, bytes_of, pack_first, unpack_first, wait_until
from qfleet.cli.job import is_of_job
from qfleet.errors import FleetError
from qfleet.launcher import is_first_on_its_machine, is_launched, without_launcher

TRAIN = ["train", "GridWorld-16", "--topology", "averaged"]


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"])
def test_launchers_are_known_by_their_variables(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_launched() and is_first_on_its_machine()
    monkeypatch.setenv(variable, "3")
    assert is_launched() and not is_first_on_its_machine()
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0")
    assert is_first_on_its_machine()


def test_children_get_everything_but_the_launchers_variables() -> None:
    given = {
        "PATH": "/bin",
        "OMPI_COMM_WORLD_RANK": "1",
        "PMIX_RANK": "1",
        "PMI_SIZE": "2",
        "PRTE_X": "",
        "OMP_NUM_THREADS": "1",
    }
    assert without_launcher(given) == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}


def test_only_a_launched_command_for_mpi_is_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"run": {"backend": "mpi"}}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    run, broken = str(tmp_path), str(tmp_path / "broken")
    of_a_job = [
        [*TRAIN, "--backend", "mpi"],
        [*TRAIN, "--backend=mpi"],
        ["train", "--config", run],
        ["resume", run, "--json"],
    ]
    of_none = [
        TRAIN,
        [*TRAIN, "--backend", "processes"],
        ["train", "--config", run, "--backend", "threads"],
        ["resume", broken],
        ["resume", str(tmp_path / "nowhere")],
        ["evaluate", run],
        [],
    ]
    assert not any(is_of_job(arguments) for arguments in of_a_job)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert all(is_of_job(arguments) for arguments in of_a_job)
    assert not any(is_of_job(arguments) for arguments in of_none)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (2, 3, 4), (FIRST_BYTES // 8,), (100, 1000)])
@pytest.mark.parametrize("dtype", ["?", "f4", "f8", ">i4", "M8[D]", "U3"])
def test_first_parts_say_all_and_hold_what_is_small(shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(1).integers(0, 2, shape).astype("i8").astype(dtype)
    part, is_inside = pack_first(Header(41, True, array.dtype, array.shape), array)
    arrived = np.zeros(FIRST_BYTES, np.uint8)
    arrived[: part.size] = part
    header, received, is_there = unpack_first(arrived)
    assert (header.number, header.is_exchange, header.dtype, header.shape) == (41, True, array.dtype, shape)
    assert is_there == is_inside == (array.nbytes < FIRST_BYTES - 200 or part.size > array.nbytes)
    assert (received.dtype, received.shape) == (array.dtype, shape)
    if is_there:
        assert received.tobytes() == array.tobytes()


def test_a_dtype_too_long_to_tell_is_refused() -> None:
    dtype = np.dtype([(f"a field with a long name, number {i}", "f8") for i in range(400)])
    with pytest.raises(FleetError, match="arrays of simple dtypes"):
        pack_first(Header(1, True, dtype, (1,)), np.zeros(1, dtype))


def test_bytes_of_is_the_memory_itself() -> None:
    array = np.zeros((3, 4), np.float32)
    bytes_of(array)[:] = 255
    assert np.isnan(array).all()


def test_a_wait_ends_when_it_is_so_or_at_its_deadline() -> None:
    started = time.monotonic()
    assert not wait_until(lambda: False, 0.1)
    assert 0.1 <= time.monotonic() - started < 1
    until = time.monotonic() + 0.05
    assert wait_until(lambda: time.monotonic() > until, 10.0)
    assert time.monotonic() - until < 1
    assert wait_until(lambda: True, 0.0)
