"""A Q-network split over workers by PyTorch's tensor-parallel API (Shoeybi et al. 2019, arXiv 1909.08053).

Every worker holds its parts of the network in one vector of its own, and computes every forward and backward pass
together with the others, on the same minibatch; `layer_pairs.py` says which layers are split. What is not split every
worker has whole, and computes alike.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.layer_pairs import Cut, find_cuts
from qfleet.deep.learner import Policy
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkShape
from qfleet.deep.optimizer import adam, global_norm
from qfleet.deep.parameters import Parameters
from qfleet.deep.split import Split, SplitTensor
from qfleet.deep.torch_group import TorchGroup
from qfleet.deep.torch_learner import ModuleLearner, VectorModule, refuse_unflattenable
from qfleet.errors import FleetError, QfleetError
from qfleet.fleet import Group
from qfleet.replay.replay import Batch

_AXES: dict[tuple[Cut, str], int | None] = {
    ("outputs", "weight"): 0,
    ("outputs", "bias"): 0,
    ("inputs", "weight"): 1,
    ("inputs", "bias"): None,
}
_STYLES: dict[Cut, Callable[[], Any]] = {"outputs": ColwiseParallel, "inputs": RowwiseParallel}


def network_without_values(shape: NetworkShape) -> QNetwork:
    """Our network, its parameters on PyTorch's meta device: they take no memory until they are split."""
    with torch.device("meta"):
        return QNetwork(shape)


@final
class ShardedModule(VectorModule):
    """One worker's parts of a module, as views into one vector."""

    def __init__(self, module: nn.Module, mesh: DeviceMesh, seed: int, *, trains: bool) -> None:
        """Takes the module over. Parameters without memory are drawn, layer by layer: the whole never exists.

        They get the values that the unsplit module has if it is made right after `torch.manual_seed(seed)`.
        Raises QfleetError if there is nothing to split, or parameters cannot be drawn.
        """
        refuse_unflattenable(module)
        rank, num_parts = mesh.get_local_rank(), mesh.size()
        cuts = find_cuts(module, num_parts)
        self.split = Split(_split_tensors(module, cuts), num_parts)
        vector = torch.zeros(self.split.num_own_parameters)
        spans = dict(zip(_trained(module), self.split.part_spans(), strict=True))
        tensors = dict(zip(spans, self.split.tensors, strict=True))
        places: dict[tuple[nn.Module, str], slice] = {}
        for layer, name, parameter, whole in _whole_parameters(module, seed):
            if not parameter.requires_grad:
                layer.register_parameter(name, nn.Parameter(whole, requires_grad=False))
                continue
            span = places[layer, name] = spans[parameter]
            vector[span] = tensors[parameter].part(whole, rank, num_parts).reshape(-1)
        _without_memory(places, spans)
        styles: dict[str, Any] = {name: _STYLES[cut]() for name, cut in cuts.items()}
        parallelize_module(module, mesh, styles, src_data_rank=None)
        super().__init__(module, vector, torch.zeros_like(vector) if trains else torch.zeros(0))
        self._bind(places, mesh)

    def _bind(self, places: dict[tuple[nn.Module, str], slice], mesh: DeviceMesh) -> None:
        """Makes the module's parameters views into the vector, and their gradients into the gradient."""
        made: dict[int, nn.Parameter] = {}
        for (layer, name), span in places.items():
            if span.start not in made:
                old: Any = getattr(layer, name)
                made[span.start] = nn.Parameter(_shaped(self.vector[span], old, mesh))
                if len(self.gradient):
                    made[span.start].grad = _shaped(self.gradient[span], old, mesh)
            layer.register_parameter(name, made[span.start])


def _shaped(part: Tensor, like: Tensor, mesh: DeviceMesh) -> Tensor:
    """A part of a vector as a tensor of a layer: PyTorch's distributed kind where the layer is split."""
    if not isinstance(like, DTensor):
        return part.view(like.shape)
    local = part.view(like.to_local().shape)
    return DTensor.from_local(
        local, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _split_tensors(module: nn.Module, cuts: dict[str, Cut]) -> tuple[SplitTensor, ...]:
    tensors = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            layer, _, own_name = name.rpartition(".")
            axis = _AXES[cuts[layer], own_name] if layer in cuts else None
            tensors.append(SplitTensor(name, tuple(parameter.shape), axis))
    return tuple(tensors)


def _whole_parameters(module: nn.Module, seed: int) -> Iterator[tuple[nn.Module, str, nn.Parameter, Tensor]]:
    """Each layer's own parameters with their values, one layer's in memory at a time if they have to be drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, layer in list(module.named_modules()):
            own = list(layer.named_parameters(recurse=False))
            tensors = [tensor for _, tensor in (*own, *layer.named_buffers(recurse=False))]
            values = _drawn(path, layer) if any(tensor.is_meta for tensor in tensors) else layer
            for name, parameter in own:
                yield layer, name, parameter, getattr(values, name).detach()


def _drawn(path: str, layer: nn.Module) -> nn.Module:
    """A copy of a layer with memory and values; its buffers become those of the layer."""
    reset: Any = getattr(layer, "reset_parameters", None)
    if reset is None:
        raise QfleetError(
            f"the network's {path or 'module'} has parameters without memory and no reset_parameters() to draw them; "
            "make the network on the CPU"
        )
    drawn: Any = copy.deepcopy(layer).to_empty(device="cpu", recurse=False)
    drawn.reset_parameters()
    for name, buffer in drawn.named_buffers(recurse=False):
        layer.register_buffer(name, buffer, name not in layer._non_persistent_buffers_set)
    return drawn


def _without_memory(places: dict[tuple[nn.Module, str], slice], spans: dict[nn.Parameter, slice]) -> None:
    """Puts parameters without memory in the place of those that have been copied."""
    empty = {
        span.start: nn.Parameter(torch.empty_like(parameter, device="meta"))
        for parameter, span in spans.items()
    }
    for (layer, name), span in places.items():
        layer.register_parameter(name, empty[span.start])


@final
class TensorParallelLearner(ModuleLearner):
    """One worker's share of a learner: all of them call the same methods, with the same minibatches.

    Vectors and states are the worker's own; `split` joins and cuts them (`join_states`, `cut_state`).
    """

    def __init__(
        self,
        config: DQNConfig,
        shape: NetworkShape,
        num_mask_actions: int,
        seed: int,
        *,
        make_module: Callable[[], nn.Module],
        torch_group: TorchGroup,
    ) -> None:
        """`make_module` gives a module of the unsplit network, with or without memory (`network_without_values`)."""
        online = ShardedModule(make_module(), torch_group.mesh, seed, trains=True)
        target = ShardedModule(make_module(), torch_group.mesh, seed, trains=False)
        super().__init__(config, shape, num_mask_actions, seed, online=online, target=target)
        self.split, self._torch_group = online.split, torch_group
        spans = zip(self.split.tensors, self.split.part_spans(), strict=True)
        self._spans = [(span, tensor.axis is not None) for tensor, span in spans]

    def _backward(self, batch: Batch, number: int) -> tuple[float, NDArray[np.float32]]:
        with self._torch_group.naming_the_lost():
            return super()._backward(batch, number)

    def _adam(self, gradient: Tensor, number: int) -> float:
        """As the unsplit learner: clips by the norm over all workers' parts."""
        rule, norm = self._rule, self._meet(gradient)
        if not math.isfinite(norm):
            return norm
        if norm > rule.max_gradient_norm:
            gradient.mul_(rule.max_gradient_norm / (norm + 1e-6))
        first, second = self._moments.numpy()
        vector, rate = self._online.vector.numpy(), rule.learning_rate
        adam(vector, gradient.numpy(), first, second, number, rate, rule.adam_epsilon, math.inf)
        return norm

    def _meet(self, gradient: Tensor) -> float:
        """Averages the gradients of what is not split, and gives the norm of the whole gradient.

        Workers compute those gradients from the same numbers, so that they are equal; machines of different kinds
        round differently, and would drift apart in millions of updates. Averaged, in double precision, equal ones
        stay as they are.
        """
        whole = [gradient[span] for span, is_split in self._spans if not is_split]
        own = sum(global_norm(gradient[span].numpy()) ** 2 for span, is_split in self._spans if is_split)
        message = torch.cat([torch.tensor([own], dtype=torch.float64), *(part.double() for part in whole)])
        self._torch_group.add_up(message)
        averages = message[1:] / self._torch_group.size
        for part, average in zip(whole, averages.split([len(part) for part in whole]), strict=True):
            part.copy_(average)
        return math.sqrt(float(message[0]) + float(averages.square().sum()))

    @torch.no_grad()
    def values(self, observations: NDArray) -> NDArray[np.float32]:
        """Q (num, num_actions) of stacked observations (num, frame_stack * size), which all workers hand in."""
        with self._torch_group.naming_the_lost():
            return self._select(torch.from_numpy(observations))

    def policy(self) -> Policy:
        """Raises QfleetError: no worker can act alone; `CollectivePolicy` is how they act together."""
        raise QfleetError("a worker has no network to act with alone; CollectivePolicy acts with all of them")


@final
class CollectivePolicy(Policy):
    """Acts with a split network: worker 0 leads, the others compute their parts of what it asks for."""

    def __init__(self, learner: TensorParallelLearner, group: Group) -> None:
        self._learner, self._group = learner, group

    def load(self, parameters: Parameters) -> None:
        """Nothing: it acts with the learner's own network, as it stands."""

    def values(self, observations: NDArray) -> NDArray[np.float32]:
        """Worker 0: as any policy; the others have to be in `follow` meanwhile."""
        if self._group.rank:
            raise FleetError(f"worker {self._group.rank} was told to lead; only worker 0 does")
        self._group.broadcast(observations, 0)
        return self._learner.values(observations)

    def end(self) -> None:
        """Worker 0: the others return from `follow`."""
        self._group.broadcast(np.empty(0, np.float32), 0)

    def follow(self) -> None:
        """The other workers: compute their parts until worker 0 ends it."""
        nothing = np.empty(0, np.float32)
        while len(observations := self._group.broadcast(nothing, 0)):
            self._learner.values(np.array(observations))
