"""One update of DQN against the matrix products in it, against PyTorch, and a user's module against a plain loop.

Everything on one thread; figures of one run are compared with one another only.
"""

import itertools
import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numba import njit, typed
from timing import best_seconds, verdict
from torch import nn
from torch.nn import functional

from qfleet.backends.budget import set_thread_budget
from qfleet.deep.compiled.layers import make_scratch
from qfleet.deep.compiled.learn import Vectors, gradient_step
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkShape, compiled_plan, decide
from qfleet.deep.optimizer import adam
from qfleet.deep.parameters import initial_parameters
from qfleet.deep.torch_learner import TorchLearner
from qfleet.environments.vector import ObservationLayout
from qfleet.replay.recorder import Block
from qfleet.replay.replay import Batch, Replay, draw, empty_batch

CARTPOLE = ObservationLayout((4,), np.dtype(np.float32), is_image=False)
MINATAR = ObservationLayout((10, 10, 4), np.dtype(np.uint8), is_image=True, channels_last=True)


def filled_replay(config: DQNConfig, layout: ObservationLayout, num_actions: int) -> Replay:
    replay = Replay(
        config, layout, frame_stack=1, num_mask_actions=0, num_envs=1, n_step=1, max_steps_per_block=20_000
    )
    random, num = np.random.default_rng(0), 20_000
    draws = random.normal(size=(num, layout.size))
    if layout.dtype == np.uint8:
        draws = draws > 1
    frames = {
        "observation": draws.astype(layout.dtype),
        "back": np.zeros(num, np.int32),
        "action_mask": np.zeros((num, 0), np.bool_),
    }
    transitions = {
        "frame": np.arange(num - 1),
        "next_frame": np.arange(1, num),
        "action": random.integers(0, num_actions, num - 1).astype(np.int32),
        "reward": random.normal(size=num - 1).astype(np.float32),
        "discount": np.where(random.random(num - 1) < 0.05, 0, 0.99).astype(np.float32),
    }
    replay.append(Block(frames, transitions))
    return replay


@njit(nogil=True)
def _updates(num, plan, rule, vectors, batch, scratch, gradient, targets, errors, deltas):
    for number in range(1, num + 1):
        gradient_step(plan, rule, vectors, batch, scratch, gradient, targets, errors, deltas)
        adam(
            vectors.parameters, gradient, vectors.first_moment, vectors.second_moment, number,
            rule.learning_rate, rule.adam_epsilon, rule.max_gradient_norm,
        )  # fmt: skip


class CompiledUpdate:
    def __init__(self, shape: NetworkShape, config: DQNConfig, batch: Batch) -> None:
        plan, slots = compiled_plan(shape)
        parameters = initial_parameters(slots, 0)
        self.vectors = Vectors(
            parameters, parameters.copy(), np.zeros_like(parameters), np.zeros_like(parameters)
        )
        num = config.batch_size
        self.gradient = np.zeros_like(parameters)
        self.arguments = (
            plan, config.rule(), self.vectors, batch,
            make_scratch(plan, num, shape.num_inputs),
            self.gradient, np.empty(num, np.float32), np.empty(num, np.float32),
            np.empty((num, shape.num_actions), np.float32),
        )  # fmt: skip

    def __call__(self, num: int) -> None:
        _updates(num, *self.arguments)

    def gradient_now(self) -> np.ndarray:
        gradient_step(*self.arguments)
        return self.gradient.copy()


def autograd_gradient(shape: NetworkShape, parameters: np.ndarray, batch: Batch) -> np.ndarray:
    """The same loss's gradient by PyTorch, from the same parameters (online and target)."""
    module = QNetwork(shape)
    nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), module.parameters())
    loss = td_loss(module, module, batch)
    return nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(module.parameters()))).numpy()


def td_loss(online: nn.Module, target: nn.Module, batch: Batch) -> torch.Tensor:
    num = len(batch.rows)
    observations = torch.from_numpy(batch.observations)
    with torch.no_grad():
        best = target(observations[num:]).max(1).values
        targets = torch.from_numpy(batch.rewards) + torch.from_numpy(batch.discounts) * best
    chosen = online(observations[:num]).gather(1, torch.from_numpy(batch.actions.astype(np.int64))[:, None])[
        :, 0
    ]
    return functional.smooth_l1_loss(chosen, targets)


class EagerUpdate:
    """The loop everyone writes."""

    def __init__(self, online: nn.Module, target: nn.Module, config: DQNConfig, batch: Batch) -> None:
        self.online, self.target, self.batch = online, target, batch
        self.optimizer = torch.optim.Adam(online.parameters(), lr=config.learning_rate)

    def __call__(self, num: int) -> None:
        for _ in range(num):
            loss = td_loss(self.online, self.target, self.batch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.online.parameters(), 10.0)
            self.optimizer.step()


@njit(nogil=True)
def _products(num, lefts, rights, outs):
    for _ in range(num):
        for i in range(len(lefts)):
            np.dot(lefts[i], rights[i], outs[i])


def products_seconds(batch_size: int, sizes: tuple[int, ...]) -> float:
    """The matrix products of one update: two passes forward, one backward."""
    forward = [(batch_size, m, n) for m, n in itertools.pairwise(sizes)]
    weights = [(n, batch_size, m) for _, m, n in forward]
    inputs = [(batch_size, n, m) for _, m, n in forward[1:]]
    random = np.random.default_rng(0)
    lefts, rights, outs = typed.List(), typed.List(), typed.List()  # pyright: ignore[reportCallIssue]
    for rows, inner, columns in forward * 2 + weights + inputs:
        lefts.append(random.normal(size=(rows, inner)).astype(np.float32))
        rights.append(random.normal(size=(inner, columns)).astype(np.float32))
        outs.append(np.empty((rows, columns), np.float32))
    return best_seconds(lambda num: _products(num, lefts, rights, outs), 300)


class UsersNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2)
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


class MinAtarNetwork(nn.Module):
    """As Young & Tian 2019 (and CleanRL) write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3)
        self.hidden, self.values = nn.Linear(1024, 128), nn.Linear(128, 3)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        images = observations.view(-1, 10, 10, 4).permute(0, 3, 1, 2).float()
        features = functional.relu(self.conv(images)).flatten(1)
        return self.values(functional.relu(self.hidden(features)))


def settings(batch_size: int) -> DQNConfig:
    return DQNConfig(hidden_sizes=(120, 84), batch_size=batch_size, double=False, rescale_observations=False)


def mlp_against_products() -> bool:
    config = settings(128)
    shape = decide(config, CARTPOLE, 1, 2)
    batch = empty_batch(128, CARTPOLE, 1, 0)
    draw(filled_replay(config, CARTPOLE, 2).view(), 0, 1, 0.4, batch)
    update = CompiledUpdate(shape, config, batch)
    difference = update.gradient_now() - autograd_gradient(shape, update.vectors.parameters, batch)
    print(f"         gradient against autograd: largest difference {np.abs(difference).max():.1e}")
    assert np.abs(difference).max() < 1e-6
    products = products_seconds(128, (4, 120, 84, 2))
    ours = best_seconds(update, 300)
    print(
        f"         4-120-84-2, batch 128: update {ours * 1e6:.0f} us, its matrix products {products * 1e6:.0f} us"
    )
    return verdict("one update against its matrix products", ours / products, "x", at_most=2)


def module_against_eager() -> bool:
    config = settings(128)
    shape = decide(config, CARTPOLE, 1, 2)
    replay = filled_replay(config, CARTPOLE, 2)
    batch = empty_batch(128, CARTPOLE, 1, 0)
    draw(replay.view(), 0, 1, 0.4, batch)
    learner = TorchLearner(config, shape, 0, 0, make_module=UsersNetwork, device=torch.device("cpu"))
    ours = best_seconds(lambda num: learner.learn(replay.view(), num, 0.4), 300)
    eager = best_seconds(EagerUpdate(UsersNetwork(), UsersNetwork(), config, batch), 300)
    print(
        f"         the user's module: {ours * 1e6:.0f} us with sampling, a plain loop {eager * 1e6:.0f} us without"
    )
    return verdict("a user's module against a plain eager loop", eager / ours, "x as fast", at_least=1.5)


def minatar_against_eager() -> bool:
    config = DQNConfig(batch_size=32, double=False)
    shape = decide(config, MINATAR, 1, 3)
    batch = empty_batch(32, MINATAR, 1, 0)
    draw(filled_replay(config, MINATAR, 3).view(), 0, 1, 0.4, batch)
    update = CompiledUpdate(shape, config, batch)
    difference = update.gradient_now() - autograd_gradient(shape, update.vectors.parameters, batch)
    assert np.abs(difference).max() < 1e-5
    ours = best_seconds(update, 100)
    eager = best_seconds(EagerUpdate(MinAtarNetwork(), MinAtarNetwork(), config, batch), 100)
    print(
        f"         MinAtar network, batch 32: {ours * 1e6:.0f} us, PyTorch's convolution {eager * 1e6:.0f} us"
    )
    return verdict("one MinAtar update against eager PyTorch", eager / ours, "x as fast", at_least=2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    set_thread_budget(num_own_threads=10**6)
    results = [mlp_against_products(), module_against_eager(), minatar_against_eager()]
    raise SystemExit(0 if all(results) else 1)
