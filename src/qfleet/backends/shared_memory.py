"""Memory that several processes share and that no name in /dev/shm can outlive.

A segment is a file without a name, handed to child processes by its descriptor: it is gone with the last process
that holds it, however that process ends, and the size of /dev/shm (64 MB in Docker) does not limit it.
"""

import mmap
import os
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qfleet.errors import FleetError
from qfleet.memory import available_memory_bytes, readable_bytes

ALIGNMENT = 64
"""Bytes of a cache line; arrays begin at multiples of it."""


def aligned(num_bytes: int) -> int:
    """Rounded up to whole cache lines."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def check_free_bytes(num_bytes: int, what: str) -> None:
    """FleetError if the machine (or container) has not so much memory left."""
    free = available_memory_bytes()
    if num_bytes > free:
        raise FleetError(
            f"{what} needs {readable_bytes(num_bytes)} of shared memory, {readable_bytes(free)} are free; "
            "use fewer workers or smaller values"
        )


@final
class Segment:
    """A mapped piece of shared memory, zeroed when it is new; arrays made on it keep it mapped."""

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self.descriptor, self.num_bytes = descriptor, num_bytes
        self.memory = mmap.mmap(descriptor, num_bytes)

    @classmethod
    def create(cls, num_bytes: int, what: str) -> "Segment":
        """A new one; `what` is what an error calls it."""
        check_free_bytes(num_bytes, what)
        descriptor = os.memfd_create("qfleet")
        os.ftruncate(descriptor, max(num_bytes, ALIGNMENT))
        return cls(descriptor, max(num_bytes, ALIGNMENT))

    def array(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        offset: int = 0,
        strides: tuple[int, ...] | None = None,
    ) -> NDArray[Any]:
        """An array that lies in the segment; offset and strides in bytes."""
        return np.ndarray(shape, dtype, self.memory, offset, strides)

    def unmap(self) -> None:
        """For who only hands it on, or is done with it; no array may lie in it."""
        self.memory.close()

    def close_descriptor(self) -> None:
        """No more processes can be given it; what is mapped stays so."""
        os.close(self.descriptor)


@final
class SharedArrays:
    """The arrays that `Fleet.shared_array` gave, to be recognised, also in their views, by their addresses."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._starts: list[int] = []

    def create(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A zeroed array in a segment of its own; FleetError if it would hold Python objects or does not fit."""
        if np.dtype(dtype).hasobject:
            raise FleetError(
                f"a shared array holds numbers; got dtype {np.dtype(dtype)}, which holds Python objects"
            )
        num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        segment = Segment.create(num_bytes, f"a shared array of shape {shape}")
        array = segment.array(shape, dtype)
        self.segments.append(segment)
        self._starts.append(array.ctypes.data)
        return array

    def find(self, array: NDArray[Any]) -> tuple[int, int] | None:
        """The index of the segment in which an array begins, and its offset there; None if it is in none."""
        address = array.ctypes.data
        for index, (start, segment) in enumerate(zip(self._starts, self.segments, strict=True)):
            if start <= address < start + segment.num_bytes:
                return index, address - start
        return None

    def close(self) -> None:
        """Gives the descriptors back; arrays in use stay."""
        for segment in self.segments:
            segment.close_descriptor()
        self.segments, self._starts = [], []


def pack_buffers(buffers: Sequence[memoryview], what: str) -> tuple[Segment, list[tuple[int, int]]]:
    """One segment that holds all buffers, and the offset and length of each."""
    offsets = np.concatenate(([0], np.cumsum([aligned(buffer.nbytes) for buffer in buffers]))).astype(int)
    segment = Segment.create(int(offsets[-1]), what)
    places = [(int(start), buffer.nbytes) for start, buffer in zip(offsets, buffers, strict=False)]
    for (start, length), buffer in zip(places, buffers, strict=True):
        segment.array((length,), np.uint8, start)[:] = np.frombuffer(buffer, np.uint8)
    return segment, places
