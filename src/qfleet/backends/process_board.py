"""A board in shared memory, which survives whoever writes to it.

Three slots are written to in turn. The first word of the board counts the writes that are complete, and so says which
slot is the newest: write n goes to slot n % 3, and a writer never touches the newest slot. Each slot has a stamp, which
is odd while the slot is being written to, and another after each write. A reader takes the stamp, copies the slot and
takes the stamp again: if it is even and the same, no write has begun in between, and the copy is whole. Otherwise two
more writes were completed since it began, and it begins again with the newest. The fences keep these steps in order on
every processor.

A writer that is killed leaves an odd stamp in a slot that is not the newest: no reader looks there, and the next writer
begins by making the stamp another odd number.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.boards import as_bytes
from qfleet.backends.shared_memory import ALIGNMENT, Segment, aligned
from qfleet.errors import FleetError

_NUM_SLOTS = 3
_STAMP, _VERSION, _LENGTH = 0, 1, 2
"""Words of a slot's head."""
_READ_SECONDS = 10.0

_inherited: list[Segment] = []
"""The shared arrays that this process was started with."""


def inherit(segments: Sequence[Segment]) -> None:
    """Makes a new process's shared arrays known, before anything is unpickled that holds a board."""
    _inherited[:] = segments


def board_bytes(num_bytes: int) -> int:
    """Bytes of shared memory for a board of arrays of so many."""
    return ALIGNMENT + _NUM_SLOTS * (ALIGNMENT + aligned(num_bytes))


@final
class ProcessBoard:
    """A board in shared array number `index` of its fleet."""

    def __init__(self, memory: NDArray[np.uint8], index: int, num_bytes: int) -> None:
        """`memory`: (board_bytes(num_bytes),), zeroed when it is new."""
        self._memory, self._index, self._num_bytes = memory, index, num_bytes
        self._count = memory[:8].view(np.int64)
        starts = [ALIGNMENT + slot * (ALIGNMENT + aligned(num_bytes)) for slot in range(_NUM_SLOTS)]
        self._heads = [memory[start : start + 24].view(np.int64) for start in starts]
        self._slots = [memory[start + ALIGNMENT :][:num_bytes] for start in starts]

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self._index, self._num_bytes)

    def write(self, version: int, array: NDArray[Any]) -> None:
        """See `qfleet.fleet.Board.write`."""
        content = as_bytes(array, self._num_bytes)
        count = int(self._count[0]) + 1
        head, slot = self._heads[count % _NUM_SLOTS], self._slots[count % _NUM_SLOTS]
        stamp = (int(head[_STAMP]) + 1) | 1
        head[_STAMP] = stamp
        _fence()
        head[_VERSION], head[_LENGTH] = version, content.size
        slot[: content.size] = content
        _fence()
        head[_STAMP] = stamp + 1
        _fence()
        self._count[0] = count

    def read(self, newer_than: int) -> tuple[int, NDArray[np.uint8]] | None:
        """See `qfleet.fleet.Board.read`; FleetError if writes come so fast that no copy is whole for seconds."""
        deadline = time.monotonic() + _READ_SECONDS
        while time.monotonic() < deadline:
            count = int(self._count[0])
            if count == 0:
                return None
            _fence()
            is_whole, found = self._copied(count % _NUM_SLOTS, newer_than)
            if is_whole:
                return found
        raise FleetError(
            f"a board of {self._num_bytes} bytes is written to faster than it can be read; fewer writes a second work"
        )

    def _copied(self, index: int, newer_than: int) -> tuple[bool, tuple[int, NDArray[np.uint8]] | None]:
        """Whether nothing was written meanwhile; the version and the content, if that is newer."""
        head = self._heads[index]
        stamp = int(head[_STAMP])
        _fence()
        version, length = int(head[_VERSION]), int(head[_LENGTH])
        is_newer = version > newer_than
        content = self._slots[index][:length].copy() if is_newer else None
        _fence()
        is_whole = stamp % 2 == 0 and int(head[_STAMP]) == stamp
        if content is None:
            return is_whole, None
        content.flags.writeable = False
        return is_whole, (version, content)


def _opened(index: int, num_bytes: int) -> ProcessBoard:
    if index >= len(_inherited):
        raise FleetError("a board must be made before the services that use it are started")
    return ProcessBoard(_inherited[index].array((board_bytes(num_bytes),), np.uint8), index, num_bytes)


def _fence() -> None:
    """Keeps what is written, and read, before this before what comes after, on every processor.

    Releasing a lock orders what came before it, taking it orders what comes after. It is a lock of this call's own, as
    threads may read at the same time.
    """
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
