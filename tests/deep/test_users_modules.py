"""A user's own module: what it receives, what is refused, and that all of its state is kept."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qfleet
from qfleet.deep.networks import NetworkConfig, decide
from qfleet.deep.torch_learner import FlatModule, TorchLearner, module_input_shape, users_module
from qfleet.environments.vector import ObservationLayout
from qfleet.errors import QfleetError
from tests.deep.networks import GRID_FIRST, GRID_LAST, VECTOR, observations_for
from tests.deep.test_learners import CONFIG, filled_replay
from tests.runs_life.tiny import assert_same_bits, train_tiny

SHAPE = decide(NetworkConfig(), VECTOR, 1, 3)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Tied(nn.Module):
    """Two names for one weight, a batch norm, and a parameter that is not to be trained."""

    def __init__(self, num_inputs: int = 5, num_actions: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(num_inputs, 8), nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.norm, self.last = nn.BatchNorm1d(8), nn.Linear(8, num_actions)
        self.frozen = nn.Parameter(torch.full((1,), 2.0), requires_grad=False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(observations)))
        hidden = torch.relu(self.third(torch.relu(self.second(hidden))))
        return self.frozen * self.last(hidden)


def learner_of(module: nn.Module, shape=SHAPE, config=CONFIG) -> TorchLearner:
    return TorchLearner(config, shape, 0, 3, make_module=lambda: users_module(module, shape), device=CPU)


def test_tied_weights_count_once_and_stay_tied() -> None:
    module = Tied()
    learner = learner_of(module)
    num = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert len(learner.publish().vector) == num == 5 * 8 + 8 + 64 + 8 + 8 + 16 + 24 + 3
    before = learner.publish()
    learner.learn(filled_replay(SHAPE, CONFIG).view(), 10, 0.4)
    after = learner.publish()
    assert (before.vector != after.vector).mean() > 0.7
    online: Any = learner._online.module.module
    assert online.third.weight is online.second.weight and online.frozen.item() == 2


def test_the_gradient_of_a_flat_module_is_autograds() -> None:
    module, flat = Tied(), FlatModule(Tied(), CPU)
    flat.vector.copy_(torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]))
    observations = torch.from_numpy(observations_for(SHAPE, 6))
    for network in (module, flat.module):
        network(observations).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.requires_grad])  # pyright: ignore
    torch.testing.assert_close(flat.gradient, expected)


def test_buffers_move_in_training_travel_with_the_parameters_and_not_to_the_target_early() -> None:
    learner = learner_of(Tied())
    policy, fresh = learner.policy(), learner.publish()
    learner.learn(filled_replay(SHAPE, CONFIG).view(), 5, 0.4)  # the target moves at 7
    state, published = learner.save_state(), learner.publish()
    mean = "module.norm.running_mean"
    assert not np.array_equal(published.buffers[mean], fresh.buffers[mean])
    np.testing.assert_array_equal(state["target_buffers"][mean], fresh.buffers[mean])
    policy.load(published)
    online, observations = learner._online.module, observations_for(SHAPE, 4)
    online.eval()
    with torch.no_grad():
        expected = online(torch.from_numpy(observations)).numpy()
    np.testing.assert_array_equal(policy.values(observations), expected)


def test_the_users_own_module_is_left_alone() -> None:
    module = Tied()
    before = [p.detach().clone() for p in module.parameters()]
    learner = learner_of(module)
    learner.learn(filled_replay(SHAPE, CONFIG).view(), 5, 0.4)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert module.training and module.norm.num_batches_tracked == 0  # pyright: ignore[reportOptionalOperand]


@pytest.mark.parametrize(
    ("layout", "frame_stack", "expected"),
    [
        (VECTOR, 1, (5,)),
        (VECTOR, 4, (4, 5)),
        (GRID_FIRST, 1, (3, 6, 8)),
        (GRID_FIRST, 4, (12, 6, 8)),
        (GRID_LAST, 1, (7, 6, 3)),
        (GRID_LAST, 2, (2, 7, 6, 3)),
    ],
)
def test_a_module_receives_observations_in_their_own_shape(
    layout: ObservationLayout, frame_stack: int, expected: tuple[int, ...]
) -> None:
    shape = decide(NetworkConfig(), layout, frame_stack, 2)
    assert module_input_shape(shape) == expected
    seen: list[torch.Tensor] = []

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(int(np.prod(expected)), 2)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            seen.append(observations)
            return self.last(observations.flatten(1).float())

    observations = observations_for(shape, 3)
    users_module(Looking(), shape)(torch.from_numpy(observations))
    assert seen[-1].shape == (3, *expected) and seen[-1].numpy().dtype == layout.dtype
    np.testing.assert_array_equal(seen[-1].numpy().reshape(3, -1), observations)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.LazyLinear(3), "is lazy"),
        (nn.Linear(5, 3).double(), "torch.float64; only float32"),
        (nn.Linear(5, 4), r"shape \(2, 4\).*must be \(2, 3\)"),
        (nn.Linear(6, 3), r"cannot take observations of shape \(batch, 5\)"),
        (nn.Flatten(), "no parameter to train"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(module: nn.Module, words: str) -> None:
    with pytest.raises(QfleetError, match=words) as raised:
        users_module(module, SHAPE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("topology", ["serial", "overlapped"])
def test_a_run_with_a_users_module_resumes_exactly(topology: str, tmp_path: Path) -> None:
    module, changes = Tied(4, 2), {"steps": 1500, "topology": topology}
    train_tiny("CartPole-v1", tmp_path / "whole", network=module, **changes)

    def stop(status: qfleet.Status) -> bool:
        return not 668 <= status.steps < 700

    train_tiny("CartPole-v1", tmp_path / "run", network=module, on_status=stop, **changes)
    resumed = qfleet.resume(tmp_path / "run", network=module)
    assert resumed.summary["steps"] >= 1500
    assert_same_bits(tmp_path / "whole", tmp_path / "run")
    agent = qfleet.load(tmp_path / "run", network=module)
    assert agent.q_values(np.zeros(4, np.float32)).shape == (2,)


KERAS = """
import keras
import numpy as np
from dataclasses import replace
from tests.deep.test_users_modules import CONFIG, SHAPE, filled_replay, learner_of
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3)])
config = replace(CONFIG, priority_exponent=0.0, learning_rate=5e-3, target_update_every_updates=10**6)
learner, replay = learner_of(model, config=config), filled_replay(SHAPE, config)
columns, seen = replay.transitions.columns, replay.frames.columns["observation"]
columns["reward"][:200] = seen[:200, 0] + columns["action"][:200]
columns["discount"][:] = 0
learner.learn(replay.view(), 20, 1.0)
before = learner.take_statistics()["train/loss"]
learner.learn(replay.view(), 200, 1.0)
learner.take_statistics()
learner.learn(replay.view(), 20, 1.0)
after = learner.take_statistics()["train/loss"]
assert after < 0.3 * before, (before, after)
assert len(learner.publish().vector) == 5 * 32 + 32 + 32 * 3 + 3
policy = learner.policy()
policy.load(learner.publish())
assert policy.values(np.zeros((4, 5), np.float32)).shape == (4, 3)
print("learned")
"""


def test_a_keras_model_learns() -> None:
    """In a process of its own: Keras takes its backend from the environment when it is first imported."""
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", KERAS],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "KERAS_BACKEND": "torch"},
    )
    assert found.stdout == "learned\n", found.stderr


def test_dropout_draws_follow_from_the_update_and_leave_the_users_generator_alone() -> None:
    module = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    whole, parts = learner_of(module), learner_of(module)
    before = torch.get_rng_state()
    whole.learn(filled_replay(SHAPE, CONFIG).view(), 10, 0.4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)  # somebody else draws in between
    view = filled_replay(SHAPE, CONFIG).view()
    parts.learn(view, 4, 0.4)
    torch.rand(3)
    parts.learn(view, 6, 0.4)
    np.testing.assert_array_equal(whole.publish().vector, parts.publish().vector)
