"""A group of processes: rounds through mailboxes in shared memory."""

import os
import time
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.collectives import RoundGroup
from qfleet.backends.control_block import ControlBlock
from qfleet.backends.mailbox import Mailbox
from qfleet.backends.process_state import if_stopped
from qfleet.errors import FleetError

_NUM_SPINS = 60
"""Looks, some 50 µs long, before a process sleeps: what its peers on other cores need for a short round."""
_LONGEST_SLEEP_SECONDS = 0.1
_NOTHING = np.empty(0, np.uint8)


@final
class ProcessGroup(RoundGroup):
    """One process's view of its group. What `exchange` gives from others are read-only views of their mailboxes.

    Every member has two mailboxes and uses them in turn: when it comes to round k + 2, all have come to round
    k + 1 and may no longer look at what round k brought.
    """

    def __init__(
        self,
        rank: int,
        names: Sequence[str],
        control: ControlBlock,
        mailboxes: Sequence[tuple[Mailbox, Mailbox]],
        timeout_seconds: float,
    ) -> None:
        super().__init__(rank, len(names))
        self._names, self._control, self._mailboxes = names, control, mailboxes
        self._timeout_seconds = timeout_seconds
        self._round = 0
        self._own: NDArray[Any] | None = None
        """What the open exchange gives to this member itself; None if none is open."""

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> "ProcessExchange":
        """See `qfleet.fleet.Group.start_exchange`."""
        self.check_arrays(arrays)
        self._check_free()
        number, own = self._round + 1, arrays[self.rank]
        sent = [_NOTHING if rank == self.rank else array for rank, array in enumerate(arrays)]
        self._mailboxes[self.rank][number % 2].write(number, sent)
        self._own = own.view(np.ndarray)
        self._own.flags.writeable = False
        self._arrive()
        return ProcessExchange(self)

    def barrier(self) -> None:
        """See `qfleet.fleet.Group.barrier`."""
        self._check_free()
        self._arrive()
        self._wait()

    def collect(self) -> list[NDArray[Any]]:
        """Waits for the round of the open exchange and gives its arrays; FleetError if there is none."""
        if self._own is None:
            raise FleetError("this exchange has been finished; start another one")
        own, self._own = self._own, None
        self._wait()
        return [
            own if rank == self.rank else pair[self._round % 2].read(self._round, self.rank)
            for rank, pair in enumerate(self._mailboxes)
        ]

    def _check_free(self) -> None:
        if self._own is not None:
            raise FleetError("an exchange is under way; finish it before the group's next call")

    def _arrive(self) -> None:
        self._round += 1
        self._control.arrive(self.rank, self._round)

    def _wait(self) -> None:
        for _ in range(_NUM_SPINS):
            if not self._control.late(self._round):
                break
            os.sched_yield()
        else:
            self._sleep_until_all_are_there()
        self._control.fence()

    def _sleep_until_all_are_there(self) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        while late := self._control.late(self._round):
            if (reason := self._control.broken()) is not None:
                raise FleetError(reason)
            seconds = deadline - time.monotonic()
            if seconds > 0:
                self._control.sleep(self.rank, min(seconds, _LONGEST_SLEEP_SECONDS))
            else:
                self._control.break_up(self.rank, self._lateness(late[0]))

    def _lateness(self, rank: int) -> str:
        process_id = self._control.process_id(rank)
        return (
            f"{self._names[rank]} (process {process_id}) has not come to round {self._round} of its group within "
            f"{self._timeout_seconds:g} s{if_stopped(process_id)}"
        )


@final
class ProcessExchange:
    """An exchange that has been started."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def finish(self) -> list[NDArray[Any]]:
        """See `qfleet.fleet.Exchange.finish`."""
        return self._group.collect()
