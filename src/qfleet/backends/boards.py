"""What the boards of all backends have in common, and that of threads."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import FleetError


def as_bytes(array: NDArray[Any], num_bytes: int) -> NDArray[np.uint8]:
    """A view (n,) of a C-contiguous array; FleetError if it is another, or does not fit on a board of so many bytes."""
    if not array.flags.c_contiguous or array.nbytes > num_bytes:
        raise FleetError(
            f"a board of {num_bytes} bytes takes a C-contiguous array of at most so many; got {array.nbytes} bytes "
            f"with strides {array.strides}"
        )
    return array.reshape(-1).view(np.uint8)


@final
class ThreadBoard:
    """A board that threads share."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._newest: tuple[int, NDArray[np.uint8]] | None = None

    def write(self, version: int, array: NDArray[Any]) -> None:
        """See `qfleet.fleet.Board.write`."""
        copy = as_bytes(array, self._num_bytes).copy()
        copy.flags.writeable = False
        # One assignment: whoever reads meanwhile has the old pair or the new one.
        self._newest = version, copy

    def read(self, newer_than: int) -> tuple[int, NDArray[np.uint8]] | None:
        """See `qfleet.fleet.Board.read`."""
        newest = self._newest
        return newest if newest is not None and newest[0] > newer_than else None
