"""Which part of a network's full vector of parameters each worker of a split network holds.

The full vector has the tensors of the unsplit network, in its order; a worker's vector has its parts of them, in the
same order. So a split network's values can be joined to those of an unsplit one, and cut for another number of workers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError


@dataclass(frozen=True)
class SplitTensor:
    """One tensor of the network."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    axis: int | None
    """Along which it is cut into equal parts; None: every worker has all of it."""

    def part_shape(self, num_parts: int) -> tuple[int, ...]:
        """Of what one worker holds."""
        return tuple(n // num_parts if axis == self.axis else n for axis, n in enumerate(self.shape))

    def part(self, whole: Any, rank: int, num_parts: int) -> Any:
        """A view of what worker `rank` holds of the whole tensor, an array of NumPy or of PyTorch."""
        if self.axis is None:
            return whole
        length = self.shape[self.axis] // num_parts
        return whole[(slice(None),) * self.axis + (slice(rank * length, (rank + 1) * length),)]


@dataclass(frozen=True)
class Split:
    """How a network lies over its workers."""

    tensors: tuple[SplitTensor, ...]
    """Those that are trained, in the unsplit network's order."""
    num_parts: int

    @property
    def num_parameters(self) -> int:
        """Of the unsplit network."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def num_own_parameters(self) -> int:
        """Of each worker."""
        return self.part_spans()[-1].stop

    def part_spans(self) -> list[slice]:
        """Where each tensor's part lies in a worker's vector."""
        return _spans([tensor.part_shape(self.num_parts) for tensor in self.tensors])

    def cut(self, vector: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
        """Worker `rank`'s vector, from that of the unsplit network; raises QfleetError if it is of another one."""
        if vector.shape != (self.num_parameters,):
            raise QfleetError(
                f"the values have {vector.size:,} parameters, this network has {self.num_parameters:,}; "
                "start from a run with the same environment and --hidden-sizes"
            )
        spans = _spans([tensor.shape for tensor in self.tensors])
        parts = [
            tensor.part(vector[span].reshape(tensor.shape), rank, self.num_parts).reshape(-1)
            for tensor, span in zip(self.tensors, spans, strict=True)
        ]
        return np.concatenate(parts)

    def join(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The unsplit network's vector, from those of all workers in the order of their ranks."""
        whole = np.empty(self.num_parameters, np.float32)
        spans = _spans([tensor.shape for tensor in self.tensors])
        for tensor, span, own in zip(self.tensors, spans, self.part_spans(), strict=True):
            into, shape = whole[span].reshape(tensor.shape), tensor.part_shape(self.num_parts)
            # Of a tensor that all have, the last one's stays: they are equal.
            for rank, vector in enumerate(vectors):
                tensor.part(into, rank, self.num_parts)[...] = vector[own].reshape(shape)
        return whole


def _spans(shapes: Sequence[tuple[int, ...]]) -> list[slice]:
    ends = list(accumulate(math.prod(shape) for shape in shapes))
    return [slice(first, last) for first, last in zip([0, *ends], ends, strict=False)]


_VECTORS = ("parameters", "target")


def join_states(split: Split, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state of an unsplit learner, from those of all ranks' learners."""
    joined = {name: split.join([state[name] for state in states]) for name in _VECTORS}
    moments = [split.join([state["moments"][i] for state in states]) for i in range(2)]
    return states[0] | joined | {"moments": np.stack(moments)}


def cut_state(split: Split, state: dict[str, Any], rank: int) -> dict[str, Any]:
    """The reverse, for one rank, whatever number of ranks the state was joined from."""
    own = {name: split.cut(state[name], rank) for name in _VECTORS}
    return state | own | {"moments": np.stack([split.cut(moment, rank) for moment in state["moments"]])}
