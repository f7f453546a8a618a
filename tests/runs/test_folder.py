"""A run's folder is unique, tells what is wrong with it, and belongs to one process at a time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qfleet.errors import DamagedError, QfleetError
from qfleet.runs.folder import RunFolder, latest


def test_the_name_says_what_runs(tmp_path: Path) -> None:
    folder = RunFolder.create("ALE/Pong-v5", "dqn", 7, root=tmp_path)
    assert folder.path.parent == tmp_path
    assert folder.path.name.startswith("ALE-Pong-v5-dqn-7-2")


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(
            pool.map(lambda _: RunFolder.create("CartPole-v1", "dqn", 0, root=tmp_path).path, range(32))
        )
    assert len(set(folders)) == 32 and all(folder.is_dir() for folder in folders)


def test_out_is_the_exact_folder_and_must_be_empty(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert RunFolder.create("x", "dqn", 0, out=out).path == out
    assert RunFolder.create("x", "dqn", 0, out=out).path == out
    (out / "file").write_text("")
    with pytest.raises(QfleetError, match="is not empty; give a new folder, or go on with: qfleet resume"):
        RunFolder.create("x", "dqn", 0, out=out)
    with pytest.raises(QfleetError, match="is a file"):
        RunFolder.create("x", "dqn", 0, out=out / "file")
    with pytest.raises(QfleetError, match=r"no run folder can be made in .*Not a directory"):
        RunFolder.create("x", "dqn", 0, out=out / "file" / "below")


def test_opening_what_is_no_run_says_what_would_work(tmp_path: Path) -> None:
    run = RunFolder.create("x", "dqn", 0, root=tmp_path)
    with pytest.raises(QfleetError, match="not a run's folder"):
        RunFolder.open(run.path)
    run.write_config({})
    assert RunFolder.open(run.path).path == run.path
    with pytest.raises(QfleetError, match=f"no such folder; the latest run there is {run.path}"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(QfleetError, match=f"not a run's folder .* the latest run there is {run.path}"):
        RunFolder.open(tmp_path)


def test_config_and_summary_come_back(tmp_path: Path) -> None:
    run = RunFolder.create("x", "dqn", 0, root=tmp_path)
    with pytest.raises(QfleetError, match="the run has not ended yet"):
        run.read_summary()
    for content in ({"learning_rate": 1e-3, "hidden": [256, 256]}, {"environment": "ε", "none": None}):
        run.write_config(content)
        run.write_summary(content)
        assert run.read_config() == run.read_summary() == content
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "summary.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    run = RunFolder.create("x", "dqn", 0, root=tmp_path)
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"config\.json"):
        run.read_config()


def test_latest_is_the_one_started_last(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="no run in"):
        latest(tmp_path / "none")
    for seed in (5, 1, 3):
        run = RunFolder.create("x", "dqn", seed, root=tmp_path)
        run.write_config({})
    assert latest(tmp_path).path == run.path


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = RunFolder.create("x", "dqn", 0, root=tmp_path)
    hold = (
        "import sys; from pathlib import Path; from qfleet.runs.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        with pytest.raises(QfleetError, match=f"in use by process {process.pid};"), run.lock():
            pass
        process.kill()
        process.wait(10)
        with run.lock(), pytest.raises(QfleetError, match="in use by process"), run.lock():
            pass
    with run.lock():
        pass
