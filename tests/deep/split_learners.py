"""Split learners of every rank, and the unsplit one, on the same minibatches."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkConfig, NetworkShape, decide
from qfleet.deep.split import cut_state
from qfleet.deep.tensor_parallel import TensorParallelLearner, network_without_values
from qfleet.deep.torch_group import TorchGroup
from qfleet.deep.torch_learner import TorchLearner, users_module
from qfleet.environments.vector import ObservationLayout
from qfleet.fleet import Group
from tests.deep.networks import GRID_LAST, SHAPES, VECTOR, observations_for
from tests.deep.test_learners import CONFIG, filled_replay

IMAGE = ObservationLayout((1, 36, 36), np.dtype(np.uint8), is_image=True, channels_last=False, scale=1 / 255)
NETWORKS: dict[str, NetworkShape] = {
    "mlp": decide(NetworkConfig(hidden_sizes=(24, 12)), VECTOR, 1, 3),
    "dueling": decide(NetworkConfig(hidden_sizes=(24, 12, 36), dueling=True), VECTOR, 1, 3),
    "grid": decide(NetworkConfig(hidden_sizes=(24,)), GRID_LAST, 1, 3),
    "nature": decide(NetworkConfig(network="nature", hidden_sizes=(24,), dueling=True), IMAGE, 2, 3),
    "users": SHAPES["mlp"],
}
SEED = 3
_SECONDS = 100.0


def users(shape: NetworkShape) -> nn.Module:
    """Two pairs, what lies between them replicated: a batch norm, dropout, tied layers and a lone one."""
    torch.manual_seed(11)
    tied = nn.Linear(12, 12)
    return nn.Sequential(
        nn.Sequential(nn.Linear(shape.num_inputs, 24), nn.Tanh()),
        nn.Linear(24, 12, bias=False),
        nn.BatchNorm1d(12),
        tied,
        nn.Dropout(0.25),
        tied,
        nn.GELU(),
        nn.Linear(12, 12),
        nn.LeakyReLU(),
        nn.Identity(),
        nn.Linear(12, shape.num_actions),
        nn.Linear(shape.num_actions, shape.num_actions),
    )


def make_module(name: str, *, has_values: bool = True) -> nn.Module:
    shape = NETWORKS[name]
    if name == "users":
        with torch.random.fork_rng():
            return users_module(users(shape), shape)
    return QNetwork(shape) if has_values else network_without_values(shape)


def unsplit(name: str, config: DQNConfig) -> TorchLearner:
    make = lambda: make_module(name)  # noqa: E731
    return TorchLearner(config, NETWORKS[name], 0, SEED, make_module=make, device=torch.device("cpu"))


def split_learner(
    group: Group, name: str, config: DQNConfig, timeout_seconds: float
) -> TensorParallelLearner:
    """All ranks call it; `close` it in the end."""
    make = lambda: make_module(name, has_values=False)  # noqa: E731
    torch_group = TorchGroup(group, timeout_seconds)
    return TensorParallelLearner(config, NETWORKS[name], 0, SEED, make_module=make, torch_group=torch_group)


def batch_of(learner: Learner, name: str, config: DQNConfig) -> Any:
    return learner.draw(filled_replay(NETWORKS[name], config).view(), 0.4)


def learn_all(group: Group, names: list[str], config: DQNConfig) -> dict[str, dict[str, Any]]:
    """What each of the networks computes and becomes on this rank."""
    return {name: one_network(group, name, config) for name in names}


def one_network(group: Group, name: str, config: DQNConfig) -> dict[str, Any]:
    learner = split_learner(group, name, config, _SECONDS)
    try:
        found = measured(learner, name, config)
        return found | {"split": learner.split}
    finally:
        learner._torch_group.close()


def measured(learner: TorchLearner | TensorParallelLearner, name: str, config: DQNConfig) -> dict[str, Any]:
    """Values, a gradient, and the state after updates in which gradients are clipped and the target moves."""
    shape, start = NETWORKS[name], learner.publish()
    found: dict[str, Any] = {"start": start.vector, "values": q_values(learner, observations_for(shape, 9))}
    gradient = learner.gradient(batch_of(learner, name, config))
    found |= {"gradient": gradient.vector, "td_errors": gradient.td_errors}
    replay = filled_replay(shape, config)
    learner.learn(replay.view(), 10, 0.4)
    found |= {"state": learner.save_state(), "statistics": learner.take_statistics()}
    return found | {"later": q_values(learner, observations_for(shape, 9))}


def q_values(learner: TorchLearner | TensorParallelLearner, observations: np.ndarray) -> np.ndarray:
    if isinstance(learner, TensorParallelLearner):
        return learner.values(observations)
    with torch.no_grad():
        return learner._select(torch.from_numpy(observations))


def go_on_from(group: Group, name: str, config: DQNConfig, state: dict[str, Any]) -> dict[str, Any]:
    """Loads an unsplit learner's state, cut for this rank, and makes five updates."""
    learner = split_learner(group, name, config, _SECONDS)
    try:
        learner.num_updates = 10
        learner.load_state(cut_state(learner.split, state, group.rank))
        learner.learn(filled_replay(NETWORKS[name], config).view(), 5, 0.4)
        return {"state": learner.save_state(), "split": learner.split}
    finally:
        learner._torch_group.close()


LARGE = decide(NetworkConfig(hidden_sizes=(3072, 3072)), VECTOR, 1, 3)
LARGE_MEMORY_BYTES = 190 * 2**20
"""Above what a worker takes without the network; the unsplit learner's six vectors take 227 MiB."""


def learn_within_limit(group: Group, is_split: bool) -> list[float] | str:
    """The losses of 20 updates on one minibatch, in a process that may not take much more memory; or what it lacks."""
    config = replace(CONFIG, target_update_every_updates=1000)
    small = split_learner(group, "mlp", config, _SECONDS)
    small.learn(filled_replay(NETWORKS["mlp"], config).view(), 2, 0.4)  # everything is imported and compiled
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_own_address_space() + LARGE_MEMORY_BYTES, limits[1]))
    try:
        learner = _large(config, small._torch_group, is_split=is_split)
        batch = learner.draw(filled_replay(LARGE, config).view(), 0.4)
        return [_loss(learner, batch) for _ in range(20)]
    except (MemoryError, RuntimeError) as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        small._torch_group.close()


def _large(config: DQNConfig, torch_group: TorchGroup, *, is_split: bool) -> Learner:
    if is_split:
        make: Callable[[], nn.Module] = lambda: network_without_values(LARGE)  # noqa: E731
        return TensorParallelLearner(config, LARGE, 0, SEED, make_module=make, torch_group=torch_group)
    device = torch.device("cpu")
    return TorchLearner(config, LARGE, 0, SEED, make_module=lambda: QNetwork(LARGE), device=device)


def _loss(learner: Learner, batch: Any) -> float:
    learner.learn_batch(batch)
    return learner.take_statistics()["train/loss"]


def _own_address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
