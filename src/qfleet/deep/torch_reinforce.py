"""REINFORCE's networks as PyTorch modules: a user's own, large images, a GPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkShape
from qfleet.deep.parameters import Parameters
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import Network, ReinforceLearner
from qfleet.deep.torch_learner import FlatModule, TorchPolicy


@final
class TorchNetwork(Network):
    """A module, in evaluation mode: what is differentiated is the very policy that acted, without dropout."""

    def __init__(self, make_module: Callable[[], nn.Module], seed: int, device: torch.device) -> None:
        self._make_module, self._device = make_module, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._flat = FlatModule(make_module().eval(), device)
        self.initial, self.buffers = self._flat.vector.cpu().numpy().copy(), self._flat.buffers()
        self._outputs = torch.empty(0)

    def load(self, parameters: Parameters) -> None:
        """Computes with these from now on."""
        self._flat.load(parameters)

    def outputs(self, observations: NDArray) -> NDArray[np.float32]:
        """(num, num_outputs); valid until the next call."""
        self._outputs = self._flat.module(self._tensor(observations))
        return self._outputs.detach().cpu().numpy()

    def add_gradient(self, output_deltas: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Backward through the latest outputs."""
        self._flat.gradient.zero_()
        self._outputs.backward(self._tensor(output_deltas))
        gradient += self._flat.gradient.cpu().numpy()

    def _tensor(self, array: NDArray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def policy(self) -> TorchPolicy:
        """A module of the same shape to act with."""
        return TorchPolicy(self._make_module(), self._device)


def torch_reinforce_learner(
    config: ReinforceConfig,
    shape: NetworkShape,
    seed: int,
    *,
    make_module: Callable[[], nn.Module],
    device: torch.device,
) -> ReinforceLearner:
    """REINFORCE with the policy that `make_module` makes, and a baseline that the shape says."""
    one_output = replace(shape, num_actions=1)
    baseline = TorchNetwork(lambda: QNetwork(one_output), seed + 1, device)
    return ReinforceLearner(config, TorchNetwork(make_module, seed, device), baseline)
