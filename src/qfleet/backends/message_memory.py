"""Values on their way between processes: small ones as bytes, large arrays in memory that is handed on unread."""

import mmap
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from qfleet.backends.service_pickling import LARGE_BYTES
from qfleet.backends.shared_memory import aligned

Keep = Callable[[pickle.PickleBuffer], bool]
"""What pickling asks about each array's memory: whether it is to be among the bytes."""


@final
class LargeArrays:
    """The memory of a value's large arrays, in the order in which they are pickled."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether an array is so small that it is to be among the bytes; others are taken."""
        view = buffer.raw()
        if view.nbytes >= LARGE_BYTES:
            self.views.append(view)
        return view.nbytes < LARGE_BYTES


@final
class Memory:
    """Memory without a name, as a descriptor of this process, which is closed with the last reference."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    @classmethod
    def holding(cls, views: Sequence[memoryview]) -> "Memory":
        """New memory with a copy of all of them, each on a cache line of its own."""
        memory, start = cls(os.memfd_create("qfleet")), 0
        # Writing is faster than mapping it: whole pages are never cleared before they are filled.
        for view in views:
            written = 0
            while written < view.nbytes:
                written += os.pwrite(memory.descriptor, view[written:], start + written)
            start += aligned(view.nbytes)
        os.ftruncate(memory.descriptor, start)
        return memory

    def views(self, lengths: Sequence[int]) -> list[memoryview]:
        """What it holds, where it lies and read-only; stays valid when the descriptor is closed."""
        size = sum(aligned(length) for length in lengths)
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return _cut(memoryview(mmap.mmap(self.descriptor, size, flags, mmap.PROT_READ)), lengths)

    def copies(self, lengths: Sequence[int]) -> list[memoryview]:
        """Copies of what it holds, the caller's own."""
        whole = np.empty(sum(aligned(length) for length in lengths), np.uint8).data
        read = 0
        while read < whole.nbytes:
            read += os.preadv(self.descriptor, [whole[read:]], read)
        return _cut(whole, lengths)


def _cut(whole: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    parts, start = [], 0
    for length in lengths:
        parts.append(whole[start : start + length])
        start += aligned(length)
    return parts


@final
@dataclass(frozen=True)
class Packed:
    """A pickled value whose large arrays lie beside its bytes."""

    data: bytes
    lengths: tuple[int, ...] = ()
    """Bytes of the large arrays."""
    memory: Memory | None = None
    """Where they lie, if there are any."""

    def views(self) -> list[memoryview]:
        """The large arrays as they lie, read-only."""
        return self.memory.views(self.lengths) if self.memory is not None else []

    def copies(self) -> list[memoryview]:
        """Copies of the large arrays, which may be written to."""
        return self.memory.copies(self.lengths) if self.memory is not None else []


def pack(dump: Callable[[Keep], bytes]) -> Packed:
    """What `dump` pickles, with large arrays copied once."""
    large = LargeArrays()
    data = dump(large.keep)
    if not large.views:
        return Packed(data)
    return Packed(data, tuple(view.nbytes for view in large.views), Memory.holding(large.views))
