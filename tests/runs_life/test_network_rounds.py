"""Networks under averaged and data-parallel: on every backend the same, resumed with the same bits, and learning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

import qfleet
from qfleet.errors import FleetError, QfleetError
from tests.backends import ray_cluster
from tests.backends.mpiexec import finish, start
from tests.environments.scripted import ScriptedEnv
from tests.runs_life.tiny import TINY, assert_same_bits, final_checkpoint

ROUNDS = ["averaged", "data-parallel"]


def tiny(out: Path, topology: str, environment: Any = "CartPole-v1", **changes: Any) -> qfleet.Run:
    settings = TINY | {"workers": 2, "topology": topology} | changes
    if topology == "averaged":
        settings["sync_every_steps"] = 2 * settings.pop("block_steps")
    return qfleet.train(environment, out=out, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qfleet.Run]:
    """Runs that were left alone."""
    return {name: tiny(tmp_path_factory.mktemp(name) / "run", name) for name in ROUNDS}


@pytest.mark.parametrize("topology", ROUNDS)
def test_updates_and_steps_are_those_of_all_workers(topology: str, whole: dict[str, qfleet.Run]) -> None:
    """Each worker learns from its own steps; an update that all make together counts once."""
    summary = whole[topology].summary
    assert summary["workers"] == 2 and summary["stopped_by"] == "steps"
    assert 3000 <= summary["steps"] < 3000 + 2 * 64
    due = int((summary["steps"] / 2 - 100) * 0.25)
    assert summary["updates"] == (2 * due if topology == "averaged" else due)


@pytest.mark.parametrize("topology", ROUNDS)
def test_stopped_and_resumed_with_the_same_bits(
    topology: str, whole: dict[str, qfleet.Run], tmp_path: Path
) -> None:
    seen: list[int] = []

    def stop(status: qfleet.Status) -> bool:
        """In the turn that crosses a checkpoint anyhow."""
        seen.append(status.steps)
        return status.steps < 1400

    first = tiny(tmp_path / "run", topology, on_status=stop)
    assert first.summary["stopped_by"] == "callback" and first.summary["steps"] < 1700
    qfleet.resume(tmp_path / "run")
    assert_same_bits(whole[topology].folder.path, tmp_path / "run")


@pytest.mark.parametrize("topology", ROUNDS)
def test_processes_learn_what_threads_learn(
    topology: str, whole: dict[str, qfleet.Run], tmp_path: Path
) -> None:
    run = tiny(tmp_path / "run", topology, backend="processes")
    assert_same_bits(whole[topology].folder.path, tmp_path / "run")
    assert run.values.tobytes() == whole[topology].values.tobytes()


@pytest.mark.parametrize("topology", ROUNDS)
def test_nodes_of_a_ray_cluster_learn_it_too(
    topology: str, whole: dict[str, qfleet.Run], tmp_path: Path
) -> None:
    tiny(tmp_path / "run", topology, backend="ray", address=ray_cluster.address())
    assert_same_bits(whole[topology].folder.path, tmp_path / "run")


def test_so_do_the_ranks_of_a_job(whole: dict[str, qfleet.Run], tmp_path: Path) -> None:
    config = json.loads((whole["data-parallel"].folder.path / "config.json").read_text())
    config["run"]["backend"] = "mpi"
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = [
        "-m",
        "qfleet",
        "train",
        "--config",
        tmp_path / "config.json",
        "--out",
        tmp_path / "run",
        "--json",
    ]
    code, out, err = finish(start(tmp_path, 2, *arguments))
    assert code == 0 and json.loads(out)["backend"] == "mpi", (out, err)
    assert_same_bits(whole["data-parallel"].folder.path, tmp_path / "run")


def test_workers_differ_in_what_they_see_and_not_in_what_they_know(whole: dict[str, qfleet.Run]) -> None:
    """The last checkpoint of a data-parallel run: equal parameters, other transitions."""
    with qfleet.begin(
        "CartPole-v1",
        topology="data-parallel",
        workers=2,
        steps=1000,
        out=whole["averaged"].folder.path.parent / "looked at",
        until_return=float("inf"),
        num_envs=4,
        learning_starts_steps=100,
        hidden_sizes=(8,),
    ) as training:
        for _ in training:
            pass
        workers = training.trainee.save_state()["topology"]["workers"]["workers"]
    learners = [workers[rank]["learner"]["learner"] for rank in "01"]
    for name in ("parameters", "target", "first_moment", "second_moment"):
        assert learners[0][name].tobytes() == learners[1][name].tobytes(), name
        assert np.ptp(learners[0][name]) > 0
    seen = [workers[rank]["learner"]["replay"]["frames"]["rows"]["observation"] for rank in "01"]
    assert not np.array_equal(seen[0][:400], seen[1][:400])


class Normalized(nn.Module):
    """A network with buffers: running means, and a count of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, observations):
        return self.layers(observations)


@pytest.mark.parametrize("topology", ROUNDS)
def test_a_users_module_keeps_its_buffers(topology: str, tmp_path: Path) -> None:
    run = tiny(tmp_path / "run", topology, network=Normalized(), steps=1000, dueling=False)
    arrays = load_file(final_checkpoint(tmp_path / "run") / "arrays.safetensors")
    means = next(
        array for name, array in arrays.items() if "values" in name and name.endswith("running_mean")
    )
    assert np.ptp(means) > 0 and np.isfinite(run.evaluate(episodes=2).mean)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"merge": "visits"}, "--merge visits is for tables"),
        ({"merge": "delta"}, "networks take equal"),
        ({"max_workers": 4, "backend": "ray"}, "--max-workers is for tables"),
    ],
)
def test_what_is_for_tables_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        tiny(tmp_path / "run", "averaged", **changes)


def test_an_environment_object_is_not_shared_out(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="an environment object is one environment, in this process"):
        tiny(tmp_path / "run", "data-parallel", ScriptedEnv(index=0))


class Failing(ScriptedEnv):
    """Breaks after some steps, in whichever worker comes there first."""

    def __init__(self) -> None:
        super().__init__(index=0)
        self.num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps > 300:
            raise RuntimeError("the robot fell over")
        return super().step(action)


def test_an_environment_that_breaks_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, FleetError, QfleetError), match="the robot fell over"):
        tiny(tmp_path / "run", "data-parallel", Failing)


@pytest.mark.parametrize("topology", ROUNDS)
def test_two_workers_learn_cart_pole(topology: str, tmp_path: Path) -> None:
    run = qfleet.train("CartPole-v1", topology=topology, workers=2, out=tmp_path / "run")
    assert run.summary["evaluation"]["mean_return"] >= 475, run.summary
