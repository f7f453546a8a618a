"""A group of MPI ranks: rounds of point-to-point messages, none of which is ever waited for without a deadline."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.collectives import RoundGroup
from qfleet.backends.mpi_library import MPI
from qfleet.backends.mpi_messages import (
    FIRST_BYTES,
    Header,
    all_done,
    bytes_of,
    pack_first,
    start_receiving,
    start_sending,
    unpack_first,
    wait_until,
)
from qfleet.errors import FleetError

TAGS_OF_A_GROUP = 3
_REASON_BYTES = 4096
_NOTHING = np.empty(0, np.uint8)


@final
class MpiGroup(RoundGroup):
    """One rank's view of its group. What `exchange` gives are arrays of its own, of others read-only views of them.

    A round is one message to each other member, in two parts: a header with whatever fits beside it, then the
    rest. A member that leaves its work in the middle, or that finds another one late, tells all others why.
    """

    def __init__(
        self, communicator: MPI.Comm, names: Sequence[str], first_tag: int, timeout_seconds: float
    ) -> None:
        super().__init__(communicator.rank, len(names))
        self._communicator, self._names = communicator, list(names)
        self.timeout_seconds = timeout_seconds
        """Of every wait."""
        self._first_tag, self._rest_tag, self._broken_tag = range(first_tag, first_tag + TAGS_OF_A_GROUP)
        self._others = [rank for rank in range(self.size) if rank != self.rank]
        self._number = 0
        self._open: MpiExchange | None = None
        self._kept: list[Any] = []
        """What an unfinished round has left under way must stay in memory."""
        self.broken: str | None = None
        """Why no more rounds are possible."""
        self.late_rank: int | None = None
        """Whom this rank has waited for in vain."""
        self.is_waiting = False
        """Whether this rank is in a wait that has a deadline of its own."""

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> "MpiExchange":
        """See `qfleet.fleet.Group.start_exchange`."""
        self.check_arrays(arrays)
        return self._begin(list(arrays), is_exchange=True)

    def barrier(self) -> None:
        """See `qfleet.fleet.Group.barrier`."""
        self._begin([_NOTHING] * self.size, is_exchange=False).finish()

    def _begin(self, arrays: list[NDArray[Any]], *, is_exchange: bool) -> "MpiExchange":
        if self._open is not None:
            raise FleetError("an exchange is under way; finish it before the group's next call")
        if self.broken is not None:
            raise FleetError(self.broken)
        number = self._number + 1
        firsts = [pack_first(Header(number, is_exchange, each.dtype, each.shape), each) for each in arrays]
        self._number, self._open = number, MpiExchange(self, arrays[self.rank], is_exchange=is_exchange)
        for rank in self._others:
            self._open.expect(rank, self._communicator, self._first_tag)
        for rank in self._others:
            first, is_inside = firsts[rank]
            rest = _NOTHING if is_inside else bytes_of(arrays[rank])
            requests = [self._communicator.Isend(first, rank, self._first_tag)]
            requests += start_sending(self._communicator, rest, rank, self._rest_tag)
            self._open.sending += [(rank, request) for request in requests]
        return self._open

    def collect(self, exchange: "MpiExchange") -> list[NDArray[Any]]:
        """Waits for the round of the open exchange and gives its arrays; FleetError if it is not the open one."""
        if exchange is not self._open:
            raise FleetError("this exchange has been finished; start another one")
        self._open = None
        self._kept.append(exchange)
        self._wait(exchange.arriving, "come to")
        received = {self.rank: exchange.own}
        # Sends are waited for too: who then computes for long would leave others without the rest of a message.
        under_way = exchange.sending
        for rank, part in exchange.firsts.items():
            header, received[rank], is_inside = unpack_first(part)
            self._check_header(header, exchange)
            rest = _NOTHING if is_inside else bytes_of(received[rank])
            requests = start_receiving(self._communicator, rest, rank, self._rest_tag)
            under_way += [(rank, request) for request in requests]
        self._wait(under_way, "finished")
        self._kept.remove(exchange)
        return [_read_only(received[rank]) for rank in range(self.size)]

    def _check_header(self, header: Header, exchange: "MpiExchange") -> None:
        if header.is_exchange != exchange.is_exchange or header.number != self._number:
            raise FleetError(
                "the members of a group make the same calls; one came to a barrier, one to an exchange"
            )

    def _wait(self, under_way: list[tuple[int, MPI.Request]], what: str) -> None:
        """Returns when all requests are done; else FleetError naming the first rank whose request is not."""
        requests = [request for _, request in under_way]
        self.is_waiting = True
        try:
            is_over = wait_until(lambda: all_done(requests) or self._is_broken(), self.timeout_seconds)
        finally:
            self.is_waiting = False
        if not is_over:
            self.late_rank = next(rank for rank, request in under_way if not request.Test())
            self.break_up(
                f"{self._names[self.late_rank]} has not {what} round {self._number} of its group within "
                f"{self.timeout_seconds:g} s"
            )
        if self.broken is not None:
            raise FleetError(self.broken)

    def _is_broken(self) -> bool:
        """Whether somebody has said that there will be no more rounds."""
        status = MPI.Status()
        if self.broken is None and self._communicator.Iprobe(MPI.ANY_SOURCE, self._broken_tag, status):
            reason = np.zeros(_REASON_BYTES, np.uint8)
            self._communicator.Recv(reason, status.source, self._broken_tag)
            self.broken = reason.tobytes().rstrip(b"\0").decode(errors="ignore")
        return self.broken is not None

    def break_up(self, reason: str) -> None:
        """Ends the group for good, and tells all others; the first reason stays."""
        if self._is_broken():
            return
        self.broken = reason
        told = np.frombuffer(reason.encode()[:_REASON_BYTES], np.uint8)
        self._kept.append(told)
        self._kept += [self._communicator.Isend(told, rank, self._broken_tag) for rank in self._others]


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


@final
class MpiExchange:
    """An exchange that has been started, with all that must stay in memory until it is finished."""

    def __init__(self, group: MpiGroup, own: NDArray[Any], *, is_exchange: bool) -> None:
        self._group, self.own, self.is_exchange = group, own, is_exchange
        self.firsts: dict[int, NDArray[np.uint8]] = {}
        """First parts of messages, by the rank that they come from."""
        self.arriving: list[tuple[int, MPI.Request]] = []
        self.sending: list[tuple[int, MPI.Request]] = []

    def expect(self, rank: int, communicator: MPI.Comm, tag: int) -> None:
        """Makes room for the first part of a rank's message."""
        self.firsts[rank] = np.empty(FIRST_BYTES, np.uint8)
        self.arriving.append((rank, communicator.Irecv(self.firsts[rank], rank, tag)))

    def finish(self) -> list[NDArray[Any]]:
        """See `qfleet.fleet.Exchange.finish`."""
        return self._group.collect(self)
