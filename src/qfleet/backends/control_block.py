"""What the processes of a group tell one another besides arrays: how far each has come, and whether it is over.

No word is written by two processes that could disagree, and there is no lock: a process may be killed at any
instant, and the others still read what is true.
"""

import contextlib
import os
import select
import threading
from collections.abc import Sequence
from typing import final

from qfleet.backends.shared_memory import Segment

_WORDS = 8
"""Eight-byte words of a row: a cache line for each member."""
_TEXT_BYTES = 1024


@final
class ControlBlock:
    """Shared by the members (rows 0 to size - 1) and their parent (row `size`).

    A row's words are the rounds its member has come to and its process id; the parent's first word says who
    has broken the group (row + 1), each row's text says why.
    """

    def __init__(self, segment: Segment, size: int, wakers: Sequence[int]) -> None:
        """`wakers` are descriptors of eventfds, one a member; they carry no meaning, they only wake who waits."""
        self._size, self._wakers = size, list(wakers)
        self._memory = memoryview(segment.memory)
        self._words = self._memory[: (size + 1) * _WORDS * 8].cast("q")
        self._fence_lock = threading.Lock()
        self._fence_lock.acquire()

    @staticmethod
    def num_bytes(size: int) -> int:
        """What a group of this size needs."""
        return (size + 1) * (_WORDS * 8 + _TEXT_BYTES)

    def set_process_id(self, rank: int, process_id: int) -> None:
        """Written by the member itself."""
        self._words[rank * _WORDS + 1] = process_id

    def process_id(self, rank: int) -> int:
        """0 before the member has started."""
        return self._words[rank * _WORDS + 1]

    def arrive(self, rank: int, number: int) -> None:
        """Publishes what was written before to all that see this member in round `number`."""
        self.fence()
        self._words[rank * _WORDS] = number
        self._wake_all(rank)

    def late(self, number: int) -> list[int]:
        """Members that have not come to the round."""
        words = self._words
        return [rank for rank in range(self._size) if words[rank * _WORDS] < number]

    def sleep(self, rank: int, seconds: float) -> None:
        """Until somebody wakes this member, at most so long."""
        poll = select.poll()
        poll.register(self._wakers[rank], select.POLLIN)
        if poll.poll(seconds * 1000):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakers[rank])

    def break_up(self, row: int, text: str) -> None:
        """Ends the group for good; the first reason stays."""
        if self.broken() is None:
            start, raw = self._text_start(row), text.encode()[: _TEXT_BYTES - 1] + b"\0"
            self._memory[start : start + len(raw)] = raw
            self.fence()
            self._words[self._size * _WORDS] = row + 1
        self._wake_all(None)

    def broken(self) -> str | None:
        """Why the group is over, if it is."""
        row = self._words[self._size * _WORDS] - 1
        if row < 0:
            return None
        self.fence()
        start = self._text_start(row)
        return bytes(self._memory[start : start + _TEXT_BYTES]).split(b"\0")[0].decode(errors="ignore")

    def close(self) -> None:
        """Lets go of the memory; nothing can be called afterwards."""
        self._words.release()
        self._memory.release()

    def fence(self) -> None:
        """Keeps what is written, and read, before this before what comes after, on every processor.

        Releasing a lock orders what came before it, taking it orders what comes after; x86 needs neither.
        """
        self._fence_lock.release()
        self._fence_lock.acquire()

    def _text_start(self, row: int) -> int:
        return (self._size + 1) * _WORDS * 8 + row * _TEXT_BYTES

    def _wake_all(self, but: int | None) -> None:
        for rank, waker in enumerate(self._wakers):
            if rank != but:
                os.eventfd_write(waker, 1)
