"""Which layers of a network are split over workers: pairs of dense layers, as in Megatron-LM.

The first of a pair is cut by its outputs (its weight's rows in PyTorch), the second by its inputs (columns). What lies
between is computed element by element, on each worker's part alone (Shoeybi et al. 2019, arXiv 1909.08053, section 3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import nn

from qfleet.deep.modules import QNetwork
from qfleet.errors import QfleetError

Cut = Literal["outputs", "inputs"]

_ELEMENTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
"""Without parameters and without random numbers."""


@dataclass(frozen=True)
class _Pair:
    first: str
    second: str
    num_split: int
    """Parameters that no worker holds all of."""


def find_cuts(module: nn.Module, num_parts: int) -> dict[str, Cut]:
    """How each layer that is split is cut, by name; the others stay whole on every worker.

    Of overlapping pairs those are taken that split most. Raises QfleetError, with each layer's reason, if there is
    nothing to split.
    """
    shared, reasons = _shared_parameters(module), list[str]()
    cuts: dict[str, Cut] = {}
    for chain in _chains(module):
        pairs = [_pair(*two, num_parts, shared, reasons) for two in pairwise(chain)]
        for pair in _best(pairs):
            cuts[pair.first], cuts[pair.second] = "outputs", "inputs"
    if not cuts:
        why = "; ".join(reasons) or (
            "it has no two nn.Linear in one nn.Sequential with nothing but element-wise activations between"
        )
        raise QfleetError(f"the network cannot be split over {num_parts} workers: {why}")
    return cuts


def _pair(
    first: tuple[str, nn.Linear],
    second: tuple[str, nn.Linear],
    num_parts: int,
    shared: set[int],
    reasons: list[str],
) -> _Pair | None:
    """The pair, or a reason why it is none."""
    for name, layer in (first, second):
        if any(id(parameter) in shared for parameter in layer.parameters()):
            return reasons.append(f"{name} shares a weight with another layer")
        if not all(parameter.requires_grad for parameter in layer.parameters()):
            return reasons.append(f"{name} is not trained")
    (name, one), (other, two) = first, second
    if one.out_features != two.in_features:
        return reasons.append(f"{name} gives {one.out_features} features, {other} takes {two.in_features}")
    if one.out_features % num_parts:
        return reasons.append(f"the {one.out_features} units of {name} cannot be shared out evenly")
    bias = 0 if one.bias is None else one.bias.numel()
    return _Pair(name, other, one.weight.numel() + bias + two.weight.numel())


def _best(pairs: list[_Pair | None]) -> list[_Pair]:
    """Of a chain's neighbouring pairs, of which no two that follow each other can be had, those that split most."""
    taken: list[list[_Pair]] = [[], []]
    for pair in pairs:
        with_it = taken[-2] + ([] if pair is None else [pair])
        taken.append(max(taken[-1], with_it, key=lambda some: sum(each.num_split for each in some)))
    return taken[-1]


def _shared_parameters(module: nn.Module) -> set[int]:
    """The ids of parameters that several names, or a layer that is used twice, refer to."""
    seen: set[int] = set()
    named = module.named_parameters(remove_duplicate=False)
    return {id(parameter) for _, parameter in named if id(parameter) in seen or seen.add(id(parameter))}


_Layers = list[tuple[str, nn.Linear]]


def _chains(module: nn.Module) -> Iterator[_Layers]:
    """Dense layers that follow one another, with nothing or element-wise activations between."""
    if isinstance(module, QNetwork):
        yield from _chains_of_network(module)
        return
    inside = {id(child) for each in module.modules() if type(each) is nn.Sequential for child in each}
    for name, each in module.named_modules():
        if type(each) is nn.Sequential and id(each) not in inside:
            yield from _chains_of(name, each)


def _chains_of_network(network: QNetwork) -> Iterator[_Layers]:
    """Ours computes its activations itself."""
    named: dict[str, nn.Linear] = {
        name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)
    }
    streams = [("state_hidden", "state_value"), ("advantage_hidden", "advantages")]
    of_streams = {name for stream in streams for name in stream}
    yield [(name, layer) for name, layer in named.items() if name not in of_streams]
    for stream in streams:
        yield [(name, named[name]) for name in stream if name in named]


def _chains_of(prefix: str, sequence: nn.Sequential) -> Iterator[_Layers]:
    chain: _Layers = []
    for name, layer in _layers_in_order(prefix, sequence):
        if type(layer) is nn.Linear:
            chain.append((name, layer))
        elif type(layer) not in _ELEMENTWISE:
            yield chain
            chain = []
    yield chain


def _layers_in_order(prefix: str, sequence: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in sequence._modules.items():  # a module that stands in it twice too
        path = f"{prefix}.{name}" if prefix else name
        assert layer is not None, "a Sequential cannot run None"
        if type(layer) is nn.Sequential:
            yield from _layers_in_order(path, layer)
        else:
            yield path, layer
