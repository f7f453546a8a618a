"""SIGINT and SIGTERM: a checkpoint, a summary, and out; the second one at once."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import finish, start

from qfleet.interruption import Interrupted, Interruption

FOREVER = (
    "CartPole-v1",
    "--steps",
    100_000_000,
    "--until-return",
    "inf",
    "--evaluate-every-steps",
    50_000_000,
)


def wait_until_training(run: Path, process: subprocess.Popen[str], timeout_seconds: float = 60) -> None:
    """Until it has begun, and then for half a second of steps."""
    end_seconds = time.monotonic() + timeout_seconds
    while not (run / "metrics.jsonl").is_file():
        assert process.poll() is None and time.monotonic() < end_seconds
        time.sleep(0.02)
    time.sleep(0.5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_order_and_the_run_goes_on(tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, "train", *FOREVER, "--out", run, "--json")
    wait_until_training(run, process)
    process.send_signal(number)
    start_seconds = time.monotonic()
    done = finish(process, 10)
    assert time.monotonic() - start_seconds < 5
    summary = json.loads(done.out)
    assert done.code == code and summary["stopped_by"] == "interrupted" and summary["evaluation"] is None
    assert done.err.splitlines()[-1] == f"qfleet: interrupted; go on with: qfleet resume {run}"
    assert (run / "checkpoints" / f"{summary['steps']:012}").is_dir() and (run / "report.html").is_file()
    assert json.loads((run / "summary.json").read_text()) == summary
    again = finish(start(tmp_path, "resume", run, "--steps", summary["steps"] + 500, "--json", "--quiet"))
    assert again.code == 0, again
    assert json.loads(again.out)["steps"] >= summary["steps"] + 500


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, "train", *FOREVER, "--out", run, "--quiet")
    wait_until_training(run, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    # Both may arrive before the first is handled, and then are one.
    time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    start_seconds = time.monotonic()
    done = finish(process, 10)
    assert done.code == 130 and time.monotonic() - start_seconds < 1


@pytest.mark.parametrize("after_seconds", [0.15, 0.4, 0.8, 1.2])
def test_a_signal_before_the_first_step_leaves_nothing_behind(tmp_path: Path, after_seconds: float) -> None:
    process = start(tmp_path, "train", *FOREVER)
    time.sleep(after_seconds)
    process.send_signal(signal.SIGINT)
    done = finish(process, 10)
    assert done.code in (130, -signal.SIGINT) and "Traceback" not in done.err, done
    left = list((tmp_path / "runs").iterdir()) if (tmp_path / "runs").exists() else []
    assert not left or (left[0] / "checkpoints").is_dir()


def test_an_interrupted_sweep_says_which_run_to_go_on_with(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    process = start(tmp_path, "train", *FOREVER, "--seeds", "0-3", "--out", sweep, "--json")
    wait_until_training(sweep / "seed-0", process)
    process.send_signal(signal.SIGINT)
    done = finish(process, 10)
    result = json.loads(done.out)
    assert done.code == 130 and len(result["runs"]) == 1, done
    assert result["mean_return"] is None and result["interval"] is None
    assert done.err.splitlines()[-1].endswith(f"qfleet resume {sweep / 'seed-0'}")


def test_a_signal_that_a_compiler_swallows_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    """As kernels are compiled, C calls Python, where nothing that is raised gets any further."""
    hook, called = sys.unraisablehook, ctypes.CFUNCTYPE(None)(lambda: time.sleep(1))
    started = time.monotonic()
    with pytest.raises(Interrupted), Interruption():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        called()
        time.sleep(5)
    assert time.monotonic() - started < 4 and "ignored" not in capfd.readouterr().err
    assert sys.unraisablehook is hook
