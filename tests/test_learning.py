"""Whole runs that must learn: the defaults on CartPole, a corridor with masked walls, a network of the user's own."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import qfleet


@pytest.mark.parametrize("topology", ["serial", "overlapped"])
def test_the_defaults_solve_cartpole(tmp_path: Path, topology: str) -> None:
    run = qfleet.train("CartPole-v1", topology=topology, seed=3, out=tmp_path / "run")
    assert run.summary["stopped_by"] == "until_return"
    assert run.summary["evaluation"]["mean_return"] >= 475
    assert run.evaluate(episodes=20, seed=123).mean >= 450
    assert run.summary["updates"] == pytest.approx(0.5 * (run.summary["steps"] - 1000), abs=40)


class Corridor(gymnasium.Env):
    """Seven cells, the goal at the right; stepping into the wall is masked, and fatal if done all the same."""

    LENGTH = 7
    observation_space = gymnasium.spaces.Discrete(LENGTH)
    action_space = gymnasium.spaces.Discrete(2)
    num_masked_actions_taken = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._cell = int(self.np_random.integers(self.LENGTH - 1))
        return self._cell, self._info()

    def step(self, action: int):
        if not self._info()["action_mask"][action]:
            Corridor.num_masked_actions_taken += 1
        self._cell += 1 if action == 1 else -1
        # Without the mask, going left for ever is what pays.
        reward = 1.0 if self._cell == self.LENGTH - 1 else 0.0
        return max(self._cell, 0), reward, self._cell == self.LENGTH - 1, False, self._info()

    def _info(self) -> dict[str, np.ndarray]:
        return {"action_mask": np.array([self._cell > 0, True], np.int8)}


def make_corridor() -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Corridor(), 30)


def test_masked_actions_are_never_taken_and_the_goal_is_reached(tmp_path: Path) -> None:
    Corridor.num_masked_actions_taken = 0
    run = qfleet.train(
        make_corridor,
        steps=4_000,
        algorithm="dqn",
        learning_starts_steps=200,
        exploration_steps=1_500,
        hidden_sizes=(32,),
        learning_rate=2e-3,
        target_update_every_updates=50,
        out=tmp_path / "run",
    )
    assert Corridor.num_masked_actions_taken == 0
    assert run.summary["evaluation"]["mean_return"] == 1
    assert run.evaluate(episodes=50).lengths.max() < Corridor.LENGTH


def test_a_network_of_the_users_own_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    run = qfleet.train(
        "CartPole-v1", network=network, steps=8_000, updates_per_step=0.25, seed=0, out=tmp_path / "run"
    )
    assert run.summary["evaluation"]["mean_return"] > 60  # a random policy gets 22
    assert qfleet.load(run.path, network=network).act(np.zeros(4, np.float32)) in (0, 1)


def test_training_at_ones_own_pace(tmp_path: Path) -> None:
    seen = []
    with qfleet.begin("CartPole-v1", steps=5_000, seed=0, out=tmp_path / "run") as training:
        for status in training:
            seen.append(status.steps)
            if status.steps >= 2_000:
                training.stop("seen enough")
        summary = training.summary(None)
    assert summary["stopped_by"] == "seen enough" and 2_000 <= summary["steps"] < 2_200
    assert seen == sorted(seen) and seen[-1] == summary["steps"]
    resumed = qfleet.resume(tmp_path / "run")
    assert resumed.summary["steps"] >= 5_000 or resumed.summary["stopped_by"] == "until_return"


def test_a_pace_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(qfleet.QfleetError, match="no setting 'leraning_rate'; did you mean learning_rate"),
        qfleet.begin("CartPole-v1", leraning_rate=1, out=tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()
