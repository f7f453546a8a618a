"""What a Group does, told by two things that a backend must be able to: exchange arrays, and wait for all."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import FleetError
from qfleet.fleet import Exchange, Reduction

_SMALL_BYTES = 4096
"""Below it, a second round costs more than every member reducing everything."""


class RoundGroup(ABC):
    """The collective calls of one member; a backend adds `start_exchange` and `barrier`."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @abstractmethod
    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> Exchange:
        """See `qfleet.fleet.Group.start_exchange`."""

    @abstractmethod
    def barrier(self) -> None:
        """See `qfleet.fleet.Group.barrier`."""

    def exchange(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See `qfleet.fleet.Group.exchange`."""
        return self.start_exchange(arrays).finish()

    def broadcast(self, array: NDArray[Any], root: int) -> NDArray[Any]:
        """A new array, the root's; the others hand in one of any shape and dtype."""
        if not 0 <= root < self.size:
            raise FleetError(f"the root of a broadcast is a rank, 0 to {self.size - 1}; got {root}")
        sent = array if self.rank == root else np.empty(0, np.uint8)
        return self.exchange([sent] * self.size)[root].copy()

    def all_reduce(self, array: NDArray[Any], reduction: Reduction) -> NDArray[Any]:
        """A new array, the same bits on every rank; float overflow and NaN pass without a warning."""
        check_array(array)
        flat = array.reshape(-1)
        if array.nbytes <= _SMALL_BYTES:
            return self._reduced([flat] * self.size, reduction).reshape(array.shape)
        cuts = [array.size * rank // self.size for rank in range(self.size + 1)]
        own = self._reduced([flat[cuts[r] : cuts[r + 1]] for r in range(self.size)], reduction)
        return np.concatenate(self.exchange([own] * self.size)).reshape(array.shape)

    def _reduced(self, parts: list[NDArray[Any]], reduction: Reduction) -> NDArray[Any]:
        return reduce_in_order(self.exchange(parts), parts[self.rank], reduction)

    def check_arrays(self, arrays: Sequence[NDArray[Any]]) -> None:
        """FleetError unless there is one array that can be sent for every rank."""
        if len(arrays) != self.size:
            raise FleetError(f"an exchange takes one array for each of {self.size} ranks; got {len(arrays)}")
        for array in arrays:
            check_array(array)


def check_array(array: NDArray[Any]) -> None:
    """FleetError unless it is an array whose bytes are its numbers, one after the other."""
    if not isinstance(array, np.ndarray):
        raise FleetError(f"a group takes NumPy arrays; got {type(array).__name__}: wrap it with numpy.array")
    if not array.flags.c_contiguous:
        raise FleetError(
            f"a group takes C-contiguous arrays; got shape {array.shape} with strides {array.strides}: "
            "pass numpy.ascontiguousarray of it"
        )
    if array.dtype.hasobject:
        raise FleetError(
            f"a group takes arrays of numbers; got dtype {array.dtype}, which holds Python objects"
        )


def reduce_in_order(parts: Sequence[NDArray[Any]], own: NDArray[Any], reduction: Reduction) -> NDArray[Any]:
    """The ranks' parts, all of `own`'s shape and dtype, put together from the first rank on."""
    for rank, part in enumerate(parts):
        if part.shape != own.shape or part.dtype != own.dtype:
            raise FleetError(
                f"all_reduce takes arrays of one shape and dtype from every rank; rank {rank} handed in "
                f"{part.shape} {part.dtype} where this one has {own.shape} {own.dtype}"
            )
    total = parts[0].copy()
    for part in parts[1:]:
        _reduce_into(total, part, reduction)
    return total


def _reduce_into(total: NDArray[Any], part: NDArray[Any], reduction: Reduction) -> None:
    if reduction == "sum":
        with np.errstate(all="ignore"):
            np.add(total, part, out=total)
        return
    # numpy.maximum may choose another zero of -0.0 and 0.0 in its vector loop than in its scalar one. This
    # does not: on a tie, and for NaN, the lowest rank's stays.
    with np.errstate(all="ignore"):
        stays = total >= part if reduction == "max" else total <= part
        np.copyto(total, part, where=~(stays | (total != total)))
