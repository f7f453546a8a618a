"""Where one member of a group of processes puts the arrays that the others are to read."""

import mmap
import os
import pickle
import struct
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.shared_memory import aligned, check_free_bytes
from qfleet.errors import FleetError

_HEAD = struct.Struct("qqq")
FIRST_BYTES = 1 << 16
"""The size of a new mailbox."""


@final
class Mailbox:
    """A segment that grows: [round, bytes of the contents, end of everything][contents][arrays].

    The contents are a pickled (dtype, shape, offset) for each rank. Growing makes the file longer and moves
    nothing: who reads maps it anew when a message ends beyond what it has mapped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)

    def write(self, number: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Puts in the arrays of round `number`; one that is in there twice is written once."""
        offsets: dict[int, int] = {}
        end = 0
        for array in arrays:
            if id(array) not in offsets:
                offsets[id(array)] = end
                end += aligned(array.nbytes)
        contents = pickle.dumps([(array.dtype, array.shape, offsets[id(array)]) for array in arrays])
        start = aligned(_HEAD.size + len(contents))
        self._make_room(start + end)
        self._memory[: _HEAD.size] = _HEAD.pack(number, len(contents), start + end)
        self._memory[_HEAD.size : _HEAD.size + len(contents)] = contents
        for array in {id(array): array for array in arrays}.values():
            if array.size:
                self._array(array.dtype, array.shape, start + offsets[id(array)])[...] = array

    def read(self, number: int, rank: int) -> NDArray[Any]:
        """A read-only view of the array for `rank`; FleetError if round `number` brought none."""
        found, length, end = _HEAD.unpack_from(self._memory)
        if found != number:
            raise FleetError(
                "the members of a group make the same calls; one came to a barrier, one to an exchange"
            )
        if end > len(self._memory):
            self._memory = mmap.mmap(self._descriptor, 0)
        contents = self._memory[_HEAD.size : _HEAD.size + length]
        # Written by another process of this run, into memory that only they have.
        dtype, shape, offset = pickle.loads(contents)[rank]  # noqa: S301
        array = self._array(dtype, shape, aligned(_HEAD.size + length) + offset)
        array.flags.writeable = False
        return array

    def _array(self, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self._memory, offset)

    def _make_room(self, num_bytes: int) -> None:
        if num_bytes <= len(self._memory):
            return
        check_free_bytes(num_bytes, "a message to the group")
        os.ftruncate(self._descriptor, max(num_bytes, 2 * len(self._memory)))
        self._memory = mmap.mmap(self._descriptor, 0)
