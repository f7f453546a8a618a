"""A group of threads: rounds without copies."""

import queue
import time
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.collectives import RoundGroup
from qfleet.errors import FleetError

_NONE: tuple[NDArray[Any], ...] = ()


@final
class Meeting:
    """What the members of a group share: how many rounds each has come to, and what it brought.

    Every word of it is written by one thread only, or once and for all (`broken`); the queues carry no meaning,
    they only wake who waits.
    """

    def __init__(self, names: Sequence[str], timeout_seconds: float) -> None:
        self.names, self.timeout_seconds = list(names), timeout_seconds
        self.rounds = [0] * len(self.names)
        self.brought: list[list[Sequence[NDArray[Any]]]] = [[_NONE, _NONE] for _ in self.names]
        self.broken: str | None = None
        self._wakers: list[queue.SimpleQueue[None]] = [queue.SimpleQueue() for _ in self.names]

    def arrive(self, rank: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Comes to the next round with what everybody is to get."""
        number = self.rounds[rank] + 1
        self.brought[rank][number % 2] = arrays
        self.rounds[rank] = number
        if min(self.rounds) >= number:
            self._wake_all(rank)

    def wait(self, rank: int) -> None:
        """Returns once all have come to this member's round; FleetError naming one who does not."""
        number, waker = self.rounds[rank], self._wakers[rank]
        deadline = time.monotonic() + self.timeout_seconds
        while min(self.rounds) < number:
            if self.broken is not None:
                raise FleetError(self.broken)
            try:
                waker.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._give_up(number)
        while not waker.empty():
            waker.get_nowait()

    def break_up(self, text: str) -> None:
        """Ends the group for good; the first reason stays."""
        self.broken = self.broken or text
        self._wake_all(None)

    def _give_up(self, number: int) -> None:
        late = [name for name, came in zip(self.names, self.rounds, strict=True) if came < number]
        if late:
            text = f"{late[0]} has not come to round {number} of its group within {self.timeout_seconds:g} s"
            self.break_up(text)

    def _wake_all(self, but: int | None) -> None:
        for rank, waker in enumerate(self._wakers):
            if rank != but:
                waker.put(None)


@final
class ThreadGroup(RoundGroup):
    """One thread's view of its group. What `exchange` gives are read-only views of what the others handed in."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__(rank, len(meeting.names))
        self._meeting, self._is_open = meeting, False

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> "ThreadExchange":
        """See `qfleet.fleet.Group.start_exchange`."""
        self.check_arrays(arrays)
        self._arrive(list(arrays))
        self._is_open = True
        return ThreadExchange(self)

    def barrier(self) -> None:
        """See `qfleet.fleet.Group.barrier`."""
        self._arrive(_NONE)
        self._meeting.wait(self.rank)

    def collect(self) -> list[NDArray[Any]]:
        """Waits for the round of the open exchange and gives its arrays; FleetError if there is none."""
        if not self._is_open:
            raise FleetError("this exchange has been finished; start another one")
        self._is_open = False
        self._meeting.wait(self.rank)
        side = self._meeting.rounds[self.rank] % 2
        return [self._received(brought[side]) for brought in self._meeting.brought]

    def _received(self, brought: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if len(brought) != self.size:
            raise FleetError(
                "the members of a group make the same calls; one came to a barrier, one to an exchange"
            )
        view = brought[self.rank].view(np.ndarray)
        view.flags.writeable = False
        return view

    def _arrive(self, arrays: Sequence[NDArray[Any]]) -> None:
        if self._is_open:
            raise FleetError("an exchange is under way; finish it before the group's next call")
        self._meeting.arrive(self.rank, arrays)


@final
class ThreadExchange:
    """An exchange that has been started."""

    def __init__(self, group: ThreadGroup) -> None:
        self._group = group

    def finish(self) -> list[NDArray[Any]]:
        """See `qfleet.fleet.Exchange.finish`."""
        return self._group.collect()
