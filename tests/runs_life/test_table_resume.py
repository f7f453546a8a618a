"""A table's run that was stopped, killed or interrupted, and resumed, ends bit-equal to one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import qfleet
from qfleet.errors import QfleetError
from qfleet.runs.checkpoints import CheckpointStore
from tests.runs_life.tables import SMALL, TOPOLOGIES, make_uneven, stop_after, train_small, uneven
from tests.runs_life.tiny import assert_equal_files, files_of, final_checkpoint

ROOT = Path(__file__).parents[2]
NAMED = "tests.runs_life.tables:make_uneven"
PROCESSES = [
    pytest.param(name, "processes", marks=[] if name in ("visits", "shards") else pytest.mark.soak)
    for name in TOPOLOGIES
    if name != "serial"
]
EVERYWHERE = [*((name, "threads") for name in TOPOLOGIES), *PROCESSES]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a run that was left alone, made once for each topology, on threads."""

    @cache
    def made(name: str) -> Path:
        out = tmp_path_factory.mktemp("uninterrupted") / "run"
        run = train_small(NAMED, out, name)
        assert run.summary["stopped_by"] == "steps" and run.summary["steps"] == SMALL["steps"]
        return out

    return made


def assert_same_run(whole: Path, other: Path) -> None:
    """Everything in the last checkpoint is equal but clocks."""
    one, two = final_checkpoint(whole), final_checkpoint(other)
    assert one.name == two.name
    assert_equal_files(files_of(one), files_of(two))


@pytest.mark.parametrize(("name", "backend"), EVERYWHERE)
def test_stopped_twice_and_resumed(name: str, backend: str, uninterrupted, tmp_path: Path) -> None:
    whole, out = uninterrupted(name), tmp_path / "run"
    placed = {} if name == "serial" else {"backend": backend}
    first = train_small(NAMED, out, name, on_status=stop_after(13_000), **placed)
    assert first.summary["stopped_by"] == "callback" and 13_000 <= first.summary["steps"] < 25_000
    second = qfleet.resume(out, on_status=stop_after(37_000))
    assert second.summary["stopped_by"] == "callback" and 37_000 <= second.summary["steps"] < 50_000
    last = qfleet.resume(out)
    assert last.summary["stopped_by"] == "steps"
    assert_same_run(whole, out)
    summary = json.loads((whole / "summary.json").read_text())
    assert last.summary["max_error"] == summary["max_error"]
    assert last.summary["evaluation"] == summary["evaluation"]
    assert last.summary["episodes"] == summary["episodes"]


def test_the_comparison_is_of_what_it_should_be(uninterrupted) -> None:
    """The borders have moved, walkers remember several steps, and visits are counted."""
    for name in ("partitioned", "shards"):
        state = json.loads((final_checkpoint(uninterrupted(name)) / "state.json").read_text())
        bounds, workers = state["tables"]["bounds"], TOPOLOGIES[name]["workers"]
        assert bounds != [60 * rank // workers for rank in range(workers + 1)]
    store = CheckpointStore(uninterrupted("serial") / "checkpoints")
    loaded = store.load_newest()
    assert loaded is not None
    learner = loaded[1]["topology"]["workers"]["0"]["learner"]
    assert learner["history"]["length"].max() >= 2 and learner["visits"].sum() > 50_000


@pytest.mark.parametrize("name", ["serial", "partitioned"])
def test_objects_are_handed_in_again(name: str, uninterrupted, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_small(uneven(), out, name, on_status=stop_after(13_000))
    with pytest.raises(QfleetError, match="environment") as raised:
        qfleet.resume(out)
    assert "\n" not in str(raised.value)
    again = qfleet.resume(out, environment=make_uneven().world())
    assert again.summary["stopped_by"] == "steps"
    assert_same_run(uninterrupted(name), out)


def test_config_round_trip(uninterrupted, tmp_path: Path) -> None:
    """The same settings from a run's config.json give the same run."""
    whole = uninterrupted("visits")
    run = qfleet.train(NAMED, config=whole / "config.json", out=tmp_path / "run")
    assert_same_run(whole, run.path)
    configs = [json.loads((path / "config.json").read_text()) for path in (whole, run.path)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", ["serial", pytest.param("partitioned", marks=pytest.mark.soak)])
def test_killed_at_random_and_resumed(name: str, uninterrupted, tmp_path: Path) -> None:
    out, generator = tmp_path / "run", random.Random(name)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    child = [sys.executable, "-m", "tests.runs_life.kill_table_child", name, str(out)]
    for _ in range(2):
        step, seconds = generator.randrange(0, SMALL["steps"] * 3 // 4), generator.uniform(0, 0.02)
        with subprocess.Popen(child, stdout=subprocess.PIPE, env=environ, cwd=ROOT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= step:
                    break
            time.sleep(seconds)
            process.kill()
        assert process.returncode == -signal.SIGKILL and not (out / "summary.json").exists()
    qfleet.resume(out)
    assert_same_run(uninterrupted(name), out)


def wait_until_training(run: Path, process: subprocess.Popen[str]) -> None:
    end_seconds = time.monotonic() + 90
    while not (run / "metrics.jsonl").is_file() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < end_seconds, process.communicate()
        time.sleep(0.05)


def test_a_signal_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    """The real program, on processes: exit code 130, one line that says how to go on, and no process left."""
    run, steps = tmp_path / "run", 600_000_000
    settings = {**SMALL, **TOPOLOGIES["partitioned"], "steps": steps, "backend": "processes"}
    settings["sync_every_steps"], settings["checkpoint_every_steps"] = 20_000, steps // 10
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "qfleet", "train", NAMED, "--out", str(run), "--json", *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until_training(run, process)
    children = children_of(process.pid)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    summary: dict[str, Any] = json.loads(out)
    assert process.returncode == 130 and summary["stopped_by"] == "interrupted"
    assert err.splitlines()[-1] == f"qfleet: interrupted; go on with: qfleet resume {run}"
    assert 0 < summary["steps"] < steps
    assert (run / "checkpoints" / f"{summary['steps']:012}").is_dir()
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    on = qfleet.resume(run, on_status=stop_after(summary["steps"] + 1))
    assert summary["steps"] < on.summary["steps"] < steps


def children_of(process_id: int) -> list[int]:
    """Of this process, by its threads' lists."""
    lists = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(number) for path in lists for number in path.read_text().split()]
