"""Parameters of a network: one flat float32 vector that every tensor of the network is a view into."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in the vector."""

    name: str
    offset: int
    shape: tuple[int, ...]
    fan_in: int
    """Inputs of one unit, from which the initial values' range follows."""

    @property
    def size(self) -> int:
        """Numbers in the tensor."""
        return int(np.prod(self.shape, dtype=np.int64))


def initial_parameters(slots: list[Slot], seed: int) -> NDArray[np.float32]:
    """Draws every weight and bias uniformly in +-1/sqrt(fan_in), PyTorch's own default for Linear and Conv.

    Returns (num_parameters,) float32.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x6E6574]))
    parameters = np.empty(sum(slot.size for slot in slots), np.float32)
    for slot in slots:
        bound = 1.0 / np.sqrt(slot.fan_in)
        values = generator.uniform(-bound, bound, slot.size)
        parameters[slot.offset : slot.offset + slot.size] = values
    return parameters


@dataclass(frozen=True)
class Parameters:
    """A network's parameters as they are handed on."""

    version: int
    """Updates made when they were published."""
    vector: NDArray[Any]
    """(num_parameters,) float32; a table's entries are of the table's type."""
    buffers: dict[str, NDArray] = field(default_factory=dict)
    """What a module keeps beside its parameters (a batch norm's running means), by name."""


def flat_values(parameters: Parameters) -> NDArray[np.float32]:
    """(num_values,): the vector and behind it the buffers of floating-point numbers, in their order."""
    return np.concatenate([parameters.vector, *(buffer.ravel() for _, buffer in _float_buffers(parameters))])


def from_flat_values(like: Parameters, values: NDArray[np.float32]) -> Parameters:
    """The reverse; other buffers, such as counts of batches, are those of `like`."""
    end = len(like.vector)
    buffers, vector = dict(like.buffers), values[:end].copy()
    for name, buffer in _float_buffers(like):
        buffers[name] = values[end : end + buffer.size].reshape(buffer.shape).astype(buffer.dtype)
        end += buffer.size
    return Parameters(like.version, vector, buffers)


def _float_buffers(parameters: Parameters) -> list[tuple[str, NDArray]]:
    return [pair for pair in parameters.buffers.items() if np.issubdtype(pair[1].dtype, np.floating)]


def state_of(parameters: Parameters) -> dict[str, Any]:
    """As checkpoints keep them."""
    return {
        "version": parameters.version,
        "parameters": parameters.vector,
        "buffers": parameters.buffers,
    }


def parameters_of(state: dict[str, Any]) -> Parameters:
    """The reverse of `state_of`."""
    return Parameters(state["version"], state["parameters"], state["buffers"])


def check_same_network(num_parameters: int, parameters: Parameters) -> None:
    """Raises QfleetError if `parameters` belong to a network of another size."""
    if len(parameters.vector) != num_parameters:
        raise QfleetError(
            f"the values to start from have {len(parameters.vector):,} parameters, this network has "
            f"{num_parameters:,}; start from a run with the same environment and --hidden-sizes"
        )
