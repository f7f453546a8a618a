"""A run that was stopped or killed, and resumed, ends bit-equal to one that was left alone."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import qfleet
from tests.runs_life.tiny import (
    ENVIRONMENTS,
    TINY,
    TOPOLOGIES,
    assert_same_bits,
    final_checkpoint,
    train_tiny,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a run that was left alone, made once for each environment and topology."""

    @cache
    def made(environment: str, topology: str) -> Path:
        out = tmp_path_factory.mktemp("uninterrupted") / "run"
        run = train_tiny(environment, out, topology=topology)
        assert run.summary["updates"] == int((run.summary["steps"] - 200) * 0.25)
        return out

    return made


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_stopped_at_a_checkpoint_and_resumed(environment, topology, uninterrupted, tmp_path) -> None:
    """Stopped twice, each time at a block that makes a checkpoint anyhow: the block that crosses 700 and 2100."""
    whole, out = uninterrupted(environment, topology), tmp_path / "run"
    first = train_tiny(environment, out, topology=topology, on_status=stop_before(700))
    assert first.summary["stopped_by"] == "callback" and 700 <= first.summary["steps"] < 740
    second = qfleet.resume(out, on_status=stop_before(2100))
    assert second.summary["stopped_by"] == "callback" and 2100 <= second.summary["steps"] < 2140
    last = qfleet.resume(out)
    assert last.summary["stopped_by"] == "steps"
    assert_same_bits(whole, out)
    assert last.values.tobytes() == qfleet.load(whole).values.tobytes()
    check_everything_is_there(final_checkpoint(out))


def stop_before(step: int):
    """Asks to stop in the block before the one that crosses `step` (blocks have at least 29 and at most 35)."""
    asked = []

    def on_status(status: qfleet.Status):
        if step - 32 <= status.steps < step and not asked:
            asked.append(status.steps)
            return False
        return None

    return on_status


def check_everything_is_there(checkpoint: Path) -> None:
    """The comparison is of what it should be: all of these are in the files, and none is trivial."""
    arrays = load_file(checkpoint / "arrays.safetensors")
    learner = [name for name in arrays if "learner" in name]
    assert len(learner) == 4 and all(np.ptp(arrays[name]) > 0 for name in learner)
    priorities = next(array for name, array in arrays.items() if name.endswith("priorities"))
    assert len(np.unique(priorities)) > 50
    names = " ".join(arrays)
    assert all(word in names for word in ("recorder", "stacks", "counters", "running"))
    rows = {path.name: load_file(path) for path in checkpoint.glob("*.safetensors")}
    assert any("observation" in columns for columns in rows.values())
    assert any("next_frame" in columns and "reward" in columns for columns in rows.values())


def kill_and_resume(environment: str, topology: str, out: Path, generator: random.Random) -> None:
    """Kills a child at a random step and moment, twice, and goes on."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    child = [sys.executable, "-m", "tests.runs_life.kill_child", environment, topology, str(out)]
    for _ in range(2):
        step, seconds = generator.randrange(0, TINY["steps"] * 3 // 4), generator.uniform(0, 0.02)
        with subprocess.Popen(child, stdout=subprocess.PIPE, env=environ, cwd=ROOT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= step:
                    break
            time.sleep(seconds)
            process.kill()
        assert process.returncode == -signal.SIGKILL and not (out / "summary.json").exists()
    qfleet.resume(out)


@pytest.mark.parametrize(
    ("environment", "topology"), [("CartPole-v1", "overlapped"), ("LunarLander-v3", "serial")]
)
def test_killed_at_random_and_resumed(environment, topology, uninterrupted, tmp_path) -> None:
    kill_and_resume(environment, topology, tmp_path / "run", random.Random(environment))
    assert_same_bits(uninterrupted(environment, topology), tmp_path / "run")


@pytest.mark.soak
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_killed_twenty_times(environment, topology, uninterrupted, tmp_path) -> None:
    generator = random.Random(environment + topology)
    for number in range(4):
        out = tmp_path / f"run{number}"
        kill_and_resume(environment, topology, out, generator)
        assert_same_bits(uninterrupted(environment, topology), out)
        shutil.rmtree(out)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(topology, uninterrupted, tmp_path) -> None:
    train_tiny("CartPole-v1", tmp_path / "same", topology=topology)
    train_tiny("CartPole-v1", tmp_path / "other", topology=topology, seed=6)
    assert_same_bits(uninterrupted("CartPole-v1", topology), tmp_path / "same")
    arrays = [
        load_file(final_checkpoint(tmp_path / name) / "arrays.safetensors") for name in ("same", "other")
    ]
    assert all(
        not np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0] if "learner" in name
    )


def test_resuming_a_finished_run_changes_nothing(uninterrupted, tmp_path) -> None:
    whole = uninterrupted("CartPole-v1", "serial")
    shutil.copytree(whole, tmp_path / "again")
    run = qfleet.resume(tmp_path / "again")
    assert run.summary["stopped_by"] == "steps" and run.summary["evaluation"]["episodes"] == 3
    assert_same_bits(whole, tmp_path / "again")


def test_a_damaged_newest_checkpoint_is_passed_over(uninterrupted, tmp_path, capsys) -> None:
    whole, out = uninterrupted("CartPole-v1", "overlapped"), tmp_path / "run"
    shutil.copytree(whole, out)
    arrays = final_checkpoint(out) / "arrays.safetensors"
    damaged = bytearray(arrays.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    arrays.write_bytes(damaged)
    qfleet.resume(out, quiet=False)
    assert "damaged checkpoint passed over" in capsys.readouterr().err
    assert_same_bits(whole, out)
