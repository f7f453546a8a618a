"""Runs under mpiexec: the bits of threads, one voice, and what comes of ranks that die, hang, raise, or are stopped."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import qfleet
from qfleet.run import load_run
from tests.backends.mpiexec import finish, ranks_of, start, started

SETTINGS: dict[str, Any] = {
    "algorithm": "q-learning",
    "steps": 60_013,
    "sync_every_steps": 977,
    "walkers": 24,
    "final_episodes": 5,
    "checkpoint_every_steps": 20_000,
    "until_return": float("inf"),
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "visits": {"topology": "averaged", "merge": "visits"},
    "shards": {"topology": "partitioned", "keep_shards": True},
}
LONG: dict[str, Any] = (
    SETTINGS | TOPOLOGIES["shards"] | {"steps": 3_000_000, "checkpoint_every_steps": 300_000}
)
ENDLESS: dict[str, Any] = {
    "topology": "averaged",
    "merge": "delta",
    "steps": 10**12,
    "sync_every_steps": 100_000,
    "until_return": float("inf"),
    "evaluate_every_steps": 10**11,
    "checkpoint_every_steps": 20_000_000,
    "stall_timeout_seconds": 2,
}
PUMP = """import qfleet

def step(parameters, state, action, random):
    if state == 6 and random < 1e-4:
        return 99, 0.0, False
    return (state + 1) % 8, 0.0, False

def reset(parameters, random):
    return int(random * 8)

PUMP = qfleet.World(step, reset, num_states=8, num_actions=2, name="Pump", max_episode_steps=200)
"""


def flags_of(settings: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return flags


def train(world: str, out: Path, settings: dict[str, Any]) -> list[object]:
    return ["-m", "qfleet", "train", world, "--backend", "mpi", "--out", out, "--json", *flags_of(settings)]


def tables_of(run: qfleet.Run) -> list[bytes]:
    state = run.values_state
    arrays = [state["values"]] if "values" in state else list(state["shards"].values())
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize(
    ("name", "world", "ranks"), [("visits", "GridWorld-16", 2), ("shards", "GridWorld-16", 3)]
)
def test_a_run_is_that_of_threads(name: str, world: str, ranks: int, tmp_path: Path) -> None:
    settings = SETTINGS | TOPOLOGIES[name]
    code, out, err = finish(start(tmp_path, ranks, *train(world, tmp_path / "mpi", settings)))
    assert code == 0 and len(out.splitlines()) == 1, (out, err)
    assert err.count("60k/60k steps") == 1, err
    summary = json.loads(out)
    assert (summary["workers"], summary["backend"]) == (ranks, "mpi")
    threads = qfleet.train(world, out=tmp_path / "threads", workers=ranks, **settings)
    assert tables_of(load_run(tmp_path / "mpi")) == tables_of(threads)
    for key in ("steps", "episodes", "max_error", "evaluation", "rounds"):
        assert summary[key] == threads.summary[key], key


def test_environments_in_python_are_stepped_on_every_rank(tmp_path: Path) -> None:
    """One a rank, with the bits of processes."""
    settings = {
        "discretize": 6,
        "steps": 6000,
        "sync_every_steps": 300,
        "final_episodes": 2,
        "topology": "averaged",
    }
    code, out, err = finish(start(tmp_path, 2, *train("CartPole-v1", tmp_path / "mpi", settings), "--quiet"))
    assert code == 0 and err == "", err
    processes = qfleet.train(
        "CartPole-v1", out=tmp_path / "processes", workers=2, backend="processes", **settings
    )
    assert tables_of(load_run(tmp_path / "mpi")) == tables_of(processes)
    assert json.loads(out)["episodes"] == processes.summary["episodes"]


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    """Then workers are in their rounds."""
    deadline = time.monotonic() + 90
    while not list(out.glob("checkpoints/0*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def assert_gone(process_ids: list[int]) -> None:
    deadline = time.monotonic() + 2
    while any(Path(f"/proc/{number}").exists() for number in process_ids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> qfleet.Run:
    """On threads."""
    return qfleet.train("GridWorld-16", out=tmp_path_factory.mktemp("alone") / "run", workers=2, **LONG)


@pytest.mark.parametrize(
    "ended_by", ["a rank's death", "SIGINT", pytest.param("SIGUSR1", marks=pytest.mark.soak)]
)
def test_a_run_that_was_ended_goes_on_with_the_same_bits(
    ended_by: str, left_alone: qfleet.Run, tmp_path: Path
) -> None:
    out = tmp_path / "mpi"
    with started(tmp_path, 2, *train("GridWorld-16", out, LONG), "--quiet") as process:
        wait_for_checkpoint(out, process)
        ranks, ended_at = ranks_of(process), time.monotonic()
        if ended_by == "a rank's death":
            os.kill(ranks[1], signal.SIGKILL)
        else:
            process.send_signal(signal.Signals[ended_by])
        code, said, err = finish(process, 20)
    assert time.monotonic() - ended_at < (10 if ended_by == "SIGUSR1" else 2)
    assert_gone(ranks)
    if ended_by == "a rank's death":
        assert code != 0 and f"rank 1 with PID {ranks[1]} on node" in err and "signal 9 (Killed)" in err, err
    elif ended_by == "SIGUSR1":
        assert code == 128 + signal.SIGUSR1 and json.loads(said)["stopped_by"] == "interrupted"
        assert err == f"qfleet: interrupted; go on with: qfleet resume {out}\n"
    else:
        assert code != 0
    code, said, err = finish(start(tmp_path, 2, "-m", "qfleet", "resume", out, "--json", "--quiet"))
    assert code == 0 and err == "" and json.loads(said)["steps"] == LONG["steps"], err
    assert tables_of(load_run(out)) == tables_of(left_alone)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_named_and_ends_the_job(rank: int, tmp_path: Path) -> None:
    flags = train("GridWorld-64", tmp_path / "mpi", ENDLESS)
    with started(tmp_path, 2, *flags, "--quiet") as process:
        wait_for_checkpoint(tmp_path / "mpi", process)
        time.sleep(0.4)  # into the rounds again: a rank 0 that is stopped outside of them is waited for
        ranks, stopped_at = ranks_of(process), time.monotonic()
        os.kill(ranks[rank], signal.SIGSTOP)
        code, _, err = finish(process, 20)
    assert time.monotonic() - stopped_at < 12 and code != 0
    assert f"qfleet: worker {rank} (rank {rank} on {socket.gethostname()}) has not " in err, err
    assert "within 2 s" in err and "Traceback" not in err, err
    assert_gone(ranks)


def test_what_a_world_does_wrong_on_a_rank_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "pump.py").write_text(PUMP)
    settings = {"topology": "partitioned", "steps": 10_000_000, "stall_timeout_seconds": 20}
    code, out, err = finish(start(tmp_path, 2, *train("pump:PUMP", tmp_path / "mpi", settings), "--quiet"))
    assert code == 2 and out == "" and len(err.splitlines()) == 1, err
    assert err.startswith("qfleet: Pump: step ") and "led to the state 99; states are 0 to 7" in err
    assert f"(in worker 1 (rank 1 on {socket.gethostname()}))" in err


def test_an_error_of_a_rank_comes_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "pump.py").write_text(
        PUMP.replace("return 99, 0.0, False", 'raise ValueError("the pump is dry")')
    )
    settings = {"topology": "partitioned", "steps": 10_000_000, "stall_timeout_seconds": 20}
    code, _, err = finish(start(tmp_path, 2, *train("pump:PUMP", tmp_path / "mpi", settings), "--quiet"))
    assert code == 1 and err.count("\nValueError: the pump is dry") >= 1, err
    assert f"In worker 1 (rank 1 on {socket.gethostname()})" in err
