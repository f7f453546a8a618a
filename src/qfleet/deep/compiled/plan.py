"""A network as a table of layers, which one compiled kernel runs whatever the sizes.

The kernel is compiled once per machine instead of once per network, and takes a whole block of updates
without coming back to the interpreter. A layer reads the output of the layer `source` (-1: the observation),
so a dueling network is two branches that share a trunk.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.parameters import Slot

DENSE, CONVOLUTION = 0, 1


class Plan(NamedTuple):
    """The layers, for kernels. Row l of `layers` is layer l in the order in which they run."""

    layers: NDArray
    """(num_layers, 6) int64: kind, source, outputs per sample, inputs per sample, weight offset, bias offset."""
    convolution: NDArray
    """(6,) int64, the first layer's if it is one: frames, height, width, channels, kernel, filters."""
    shift: NDArray
    """(num_inputs,) float32: subtracted from an observation."""
    factor: NDArray
    """(num_inputs,) float32: what the difference is multiplied by."""
    dueling: bool
    """Whether the last two layers are the state's value and the actions' advantages."""
    num_actions: int


LAYER_KIND, LAYER_SOURCE, LAYER_OUTPUTS, LAYER_INPUTS, LAYER_WEIGHT, LAYER_BIAS = range(6)


@dataclass
class PlanBuilder:
    """Collects layers and the places of their tensors."""

    shift: NDArray[np.float32]
    factor: NDArray[np.float32]

    def __post_init__(self) -> None:
        self._rows: list[list[int]] = []
        self.slots: list[Slot] = []
        self._convolution = np.zeros(6, np.int64)
        self._num_parameters = 0

    def _slot(self, name: str, shape: tuple[int, ...], fan_in: int) -> int:
        slot = Slot(name, self._num_parameters, shape, fan_in)
        self.slots.append(slot)
        self._num_parameters += slot.size
        return slot.offset

    def dense(self, name: str, source: int, num_inputs: int, num_outputs: int) -> int:
        """Adds y = x W^T + b, W (num_outputs, num_inputs); returns the layer's number."""
        weight = self._slot(f"{name}.weight", (num_outputs, num_inputs), num_inputs)
        bias = self._slot(f"{name}.bias", (num_outputs,), num_inputs)
        self._rows.append([DENSE, source, num_outputs, num_inputs, weight, bias])
        return len(self._rows) - 1

    def convolve(
        self, name: str, frames: int, height: int, width: int, channels: int, kernel: int, filters: int
    ) -> int:
        """Adds the first layer, a convolution of stride 1 without padding.

        Input (frames, height, width, channels), weight (filters, frames, kernel, kernel, channels), output
        (height - kernel + 1, width - kernel + 1, filters).
        """
        num_inputs = frames * kernel * kernel * channels
        weight = self._slot(f"{name}.weight", (filters, frames, kernel, kernel, channels), num_inputs)
        bias = self._slot(f"{name}.bias", (filters,), num_inputs)
        num_outputs = (height - kernel + 1) * (width - kernel + 1) * filters
        self._convolution[:] = frames, height, width, channels, kernel, filters
        self._rows.append([CONVOLUTION, -1, num_outputs, num_inputs, weight, bias])
        return len(self._rows) - 1

    def build(self, *, dueling: bool, num_actions: int) -> Plan:
        """The finished table."""
        layers = np.array(self._rows, np.int64)
        return Plan(layers, self._convolution, self.shift, self.factor, dueling, num_actions)
