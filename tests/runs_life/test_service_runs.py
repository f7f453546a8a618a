"""Networks under pooled, asynchronous, parameter-server and ape-x: counts, stopping and going on, and learning."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

import qfleet
from qfleet.errors import QfleetError
from qfleet.fleet_view import FleetView
from qfleet.runs.metrics import read_metrics
from tests import clock
from tests.environments.scripted import ScriptedEnv
from tests.runs_life.tiny import TINY, final_checkpoint

SERVICES = ["pooled", "asynchronous", "parameter-server", "ape-x"]
NUM_STEPS, STARTS, RATIO, BLOCK, NUM_ENVS = 3000, 200, 0.25, 32, 4


def tiny(out: Path, topology: str, environment: Any = "CartPole-v1", **changes: Any) -> qfleet.Run:
    return qfleet.train(
        environment, out=out, **(TINY | {"workers": 2, "topology": topology, "backend": "threads"} | changes)
    )


def assert_counts(summary: dict[str, Any], topology: str, num_workers: int = 2) -> None:
    """Every update that is due is made; Ape-X's learner may run ahead by as much as the limiter lets it."""
    late = NUM_ENVS if topology == "ape-x" else num_workers * NUM_ENVS
    assert NUM_STEPS <= summary["steps"] < NUM_STEPS + late
    due = int((summary["steps"] - STARTS) * RATIO)
    ahead = 2 * BLOCK * num_workers * RATIO + 2 * 8 if topology == "ape-x" else 0
    # What is due is counted for each worker, and before a block is rounded up to whole steps of its environments.
    assert due - num_workers * (1 + NUM_ENVS * RATIO) <= summary["updates"] <= due + ahead


@pytest.mark.parametrize("priority_exponent", [0.0, 0.6])
@pytest.mark.parametrize("topology", SERVICES)
def test_steps_are_those_asked_for_and_the_updates_owed_are_made(
    topology: str, priority_exponent: float, tmp_path: Path
) -> None:
    run = tiny(tmp_path / "run", topology, priority_exponent=priority_exponent)
    assert run.summary["stopped_by"] == "steps" and run.summary["workers"] == 2
    assert_counts(run.summary, topology)


@pytest.mark.parametrize(("topology", "backend"), [("parameter-server", "threads"), ("ape-x", "processes")])
def test_chains_that_end_while_members_are_asked_do_not_end_the_run(
    topology: str, backend: str, tmp_path: Path
) -> None:
    """Parameters, in nearly every turn: the run's last steps come between two turns, and updates are owed for them."""
    run = tiny(tmp_path / "run", topology, backend=backend, evaluate_every_steps=40)
    assert run.summary["stopped_by"] == "steps"
    assert_counts(run.summary, topology)


@pytest.mark.parametrize("topology", SERVICES)
def test_three_workers_with_few_environments_and_a_short_last_block(topology: str, tmp_path: Path) -> None:
    changes = {"num_shards": 2} if topology in ("ape-x", "parameter-server") else {}
    changes |= {"learner_threads": 2} if topology == "ape-x" else {}
    views: list[FleetView] = []
    run = tiny(tmp_path / "run", topology, workers=3, on_status=partial(_keep_view, views), **changes)
    assert_counts(run.summary, topology, num_workers=3)
    assert [(role.name, role.num_members) for role in views[-1].roles] == ROLES[topology]
    assert_roles_in_metrics(read_metrics(run.path), topology, run.summary["steps"])


ROLES = {
    "pooled": [("agent", 3), ("learner", 1)],
    "asynchronous": [("replay", 1), ("agent", 3), ("driver", 1)],
    "parameter-server": [("parameter shard", 2), ("worker", 3), ("driver", 1)],
    "ape-x": [("replay shard", 2), ("learner", 1), ("actor", 3), ("driver", 1)],
}


def _keep_view(views: list[FleetView], status: qfleet.Status) -> None:
    assert status.fleet is not None
    views.append(status.fleet)


def assert_roles_in_metrics(metrics: list[dict[str, Any]], topology: str, num_steps: int) -> None:
    """Every role has its load; one is the bottleneck; and rates are such that in all the steps were made."""
    lines = [line for line in metrics if "time/fps" in line]
    acting = next(role for role, members in ROLES[topology] if members == 3)
    for role, _ in ROLES[topology]:
        busy = [line[f"fleet/{role.replace(' ', '_')}/busy"] for line in lines]
        assert all(0 <= share <= 1 for share in busy)
    for line in lines:
        assert sum(value for name, value in line.items() if name.endswith("/is_bottleneck")) == 1
        assert line[f"fleet/{acting}/steps_per_second"] > 0
    assert lines[-1]["step"] == num_steps


@pytest.mark.parametrize("backend", ["threads", pytest.param("processes", marks=pytest.mark.soak)])
@pytest.mark.parametrize("topology", SERVICES)
def test_stopped_and_resumed(topology: str, backend: str, tmp_path: Path) -> None:
    """Not with the same bits, as members do not wait for one another, but with the same counts in the end."""
    seen: list[int] = []
    first = tiny(tmp_path / "run", topology, backend=backend, on_status=lambda status: status.steps < 1400)
    assert first.summary["stopped_by"] == "callback" and 1400 <= first.summary["steps"] < 1700
    run = qfleet.resume(tmp_path / "run", on_status=lambda status: seen.append(status.updates))
    assert seen[0] >= first.summary["updates"] and run.summary["stopped_by"] == "steps"
    assert run.summary["episodes"] > first.summary["episodes"] > 0
    assert_counts(run.summary, topology)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays and numbers of a state, by their paths."""
    if not isinstance(tree, dict | list):
        yield name, tree
        return
    for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from leaves(part, f"{name}/{key}")


@pytest.mark.parametrize("topology", SERVICES)
def test_a_state_holds_all_that_was_learned_and_seen(topology: str, tmp_path: Path) -> None:
    """Saved, loaded by others and saved again: networks, moments, counts, and all that replays had."""
    settings: dict[str, Any] = TINY | {"workers": 2, "topology": topology, "backend": "threads"}
    settings["replay_capacity"] = 8000
    with qfleet.begin("CartPole-v1", out=tmp_path / "one", **settings) as one:
        for status in one:
            if status.steps > 1000:
                break
        saved = dict(leaves(one.trainee.save_state()["topology"]))
        counts = one.trainee.num_steps, one.trainee.num_updates
        state = one.trainee.save_state()
    settings["seed"] = 6
    with qfleet.begin("CartPole-v1", out=tmp_path / "two", **settings) as two:
        two.trainee.load_state(state)
        assert (two.trainee.num_steps, two.trainee.num_updates) == counts and counts[1] > 0
        again = dict(leaves(two.trainee.save_state()["topology"]))
    assert set(saved) <= set(again)
    for name, value in saved.items():
        if name.rpartition("/")[2] in (
            "parameters",
            "target",
            "first_moment",
            "second_moment",
            "moments",
            "updates",
        ):
            assert np.array_equal(value, again[name]), name
        if "/rows/" in name:  # a pause may add the ends of episodes that cannot be saved
            assert len(value) > 300 and np.array_equal(value, again[name][: len(value)]), name
    assert any("/rows/" in name for name in saved) and any("moment" in name for name in saved)


class Normalized(nn.Module):
    """A network with buffers: running means, and a count of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, observations):
        return self.layers(observations)


@pytest.mark.parametrize("backend", ["threads", pytest.param("processes", marks=pytest.mark.soak)])
@pytest.mark.parametrize("topology", SERVICES)
def test_a_users_module_keeps_its_buffers(topology: str, backend: str, tmp_path: Path) -> None:
    changes = {"network": Normalized(), "steps": 1000, "dueling": False, "backend": backend}
    run = tiny(tmp_path / "run", topology, **changes)
    arrays = load_file(final_checkpoint(tmp_path / "run") / "arrays.safetensors")
    means = next(
        array for name, array in arrays.items() if "values" in name and name.endswith("running_mean")
    )
    assert np.ptp(means) > 0 and np.isfinite(run.evaluate(episodes=2).mean)


class Masked(gymnasium.Env):
    """Five-step episodes of four actions, of which the one that was taken last is not allowed."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def _answer(self, action: int) -> tuple[np.ndarray, dict[str, Any]]:
        mask = np.ones(4, np.int8)
        mask[action] = 0
        self.allowed = mask
        return np.array([self.time, action], np.float32), {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._answer(0)

    def step(self, action):
        assert self.allowed[action], f"action {action} is not allowed"
        self.time += 1
        observation, info = self._answer(int(action))
        return observation, float(action == 3), self.time == 5, False, info


@pytest.mark.parametrize("topology", SERVICES)
def test_actions_that_are_not_allowed_are_never_taken(topology: str, tmp_path: Path) -> None:
    """Nor counted on: of 3, 2, 3, 2, 3 the best return is 3."""
    run = tiny(tmp_path / "run", topology, Masked, n_step=1)
    assert 1 <= run.summary["evaluation"]["mean_return"] <= 3


@pytest.mark.parametrize("topology", SERVICES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "mpi"}, "does not run with --backend mpi"),
        ({"block_steps": 0}, "block_steps is 0; it must be at least 1"),
        ({"stall_timeout_seconds": 0}, "stall_timeout_seconds is 0; it must be above 0"),
        ({"environment": ScriptedEnv(index=0)}, "an environment object is one environment, in this process"),
    ],
)
def test_what_cannot_be_is_refused(topology: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        tiny(tmp_path / "run", topology, **changes)
    assert not (tmp_path / "run").exists()


def test_blocks_that_are_rounded_up_make_no_more_steps_than_were_asked_for(tmp_path: Path) -> None:
    """Four blocks are under way at the end, each of which makes up to seven steps more than it is asked for."""
    changes = {"num_envs": 8, "block_steps": 25, "learning_starts_steps": 10**6, "steps": 1000}
    for seed in range(3):
        summary = tiny(tmp_path / str(seed), "ape-x", seed=seed, **changes).summary
        assert 1000 <= summary["steps"] < 1000 + 8


def test_an_actor_without_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="block_seconds is 0; it must be above 0"):
        tiny(tmp_path / "run", "ape-x", block_seconds=0)


@pytest.mark.parametrize(
    ("topology", "name"),
    [
        ("pooled", "publish_every_updates"),
        ("parameter-server", "num_shards"),
        ("ape-x", "num_shards"),
        ("ape-x", "batches_per_sample"),
        ("ape-x", "learner_threads"),
        ("ape-x", "publish_every_updates"),
    ],
)
def test_counts_that_are_too_small_are_refused(topology: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=f"{name} is 0; it must be at least 1"):
        tiny(tmp_path / "run", topology, **{name: 0})


def learn_cart_pole(out: Path, topology: str, seed: int, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"backend": "threads"} | changes
    return qfleet.train("CartPole-v1", topology=topology, workers=2, seed=seed, out=out, **settings).summary


@pytest.mark.parametrize("topology", SERVICES)
def test_two_workers_learn_cart_pole(topology: str, tmp_path: Path) -> None:
    summary = learn_cart_pole(tmp_path / "run", topology, 0)
    assert summary["evaluation"]["mean_return"] >= 475, summary


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("topology", SERVICES)
def test_every_seed_learns_cart_pole_within_a_minute(topology: str, seed: int, tmp_path: Path) -> None:
    summary = learn_cart_pole(tmp_path / "run", topology, seed)
    assert summary["evaluation"]["mean_return"] >= 475, summary
    assert summary["seconds"] <= clock.seconds(60, 180)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("backend", ["processes", "ray"])
@pytest.mark.parametrize("topology", SERVICES)
def test_every_backend_learns_cart_pole(topology: str, backend: str, seed: int, tmp_path: Path) -> None:
    summary = learn_cart_pole(tmp_path / "run", topology, seed, backend=backend)
    assert summary["evaluation"]["mean_return"] >= 475, summary
