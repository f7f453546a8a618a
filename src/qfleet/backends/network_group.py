"""A group over TCP connections: for members that share no memory.

No thread helps: a message goes out as far as the connection takes it when an exchange is started, and the rest, both
ways at once, when it is finished. Nothing has to be woken, so small rounds take little more than the network does.
"""

import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.collectives import RoundGroup
from qfleet.backends.network_mesh import Peer
from qfleet.backends.network_message import Incoming, News, Outgoing, pack_news
from qfleet.errors import FleetError


@final
class NetworkGroup(RoundGroup):
    """One member's view of its group. What `exchange` gives from others lies in memory of its own."""

    def __init__(
        self, rank: int, names: Sequence[str], peers: Mapping[int, Peer], timeout_seconds: float
    ) -> None:
        super().__init__(rank, len(names))
        self._names, self._peers, self._timeout_seconds = names, peers, timeout_seconds
        self._round = self._finished = 0
        self._broken: str | None = None
        self._news = {rank: News() for rank in peers}
        self._left: list[tuple[int, str]] = []
        """How many rounds members that have left had finished, and why they left."""
        self._own: NDArray[Any] | None = None
        """What the open exchange gives to this member itself; None if none is open."""
        self._outgoing: dict[int, Outgoing] = {}
        self._incoming: dict[int, Incoming] = {}

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> "NetworkExchange":
        """See `qfleet.fleet.Group.start_exchange`."""
        self.check_arrays(arrays)
        self._arrive(lambda rank: arrays[rank])
        self._own = arrays[self.rank].view(np.ndarray)
        self._own.flags.writeable = False
        return NetworkExchange(self)

    def barrier(self) -> None:
        """See `qfleet.fleet.Group.barrier`."""
        self._arrive(lambda rank: None)
        self._wait()

    def collect(self) -> list[NDArray[Any]]:
        """Waits for the round of the open exchange and gives its arrays; FleetError if there is none."""
        if self._own is None:
            raise FleetError("this exchange has been finished; start another one")
        own, self._own = self._own, None
        self._wait()
        return [own if rank == self.rank else self._brought(rank) for rank in range(self.size)]

    def break_up(self, text: str) -> None:
        """Ends the group for good, and tells all others why; the first reason stays."""
        if self._broken is not None:
            return
        self._broken = text
        for peer in self._peers.values():
            with suppress(OSError):  # whoever is gone need not know
                peer.news.sendall(pack_news(self._finished, text))

    def close(self) -> None:
        """Closes the connections."""
        for peer in self._peers.values():
            peer.arrays.close()
            peer.news.close()

    def _arrive(self, array_for: Callable[[int], NDArray[Any] | None]) -> None:
        """Comes to the next round, and sends what the connections take at once."""
        if self._own is not None:
            raise FleetError("an exchange is under way; finish it before the group's next call")
        if self._broken is not None:
            raise FleetError(self._broken)
        self._round += 1
        self._outgoing = {rank: Outgoing(self._round, array_for(rank)) for rank in self._peers}
        self._incoming = {rank: Incoming() for rank in self._peers}
        for rank, message in self._outgoing.items():
            with suppress(ConnectionError):  # told when it is waited for
                message.send(self._peers[rank].arrays)

    def _wait(self) -> None:
        """Returns once this member has sent and received all of the round."""
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            if self._move():
                deadline = time.monotonic() + self._timeout_seconds
            late = [*self._unfinished(self._incoming), *self._unfinished(self._outgoing)]
            if not late:
                break
            self._refuse_if_left()
            if time.monotonic() >= deadline:
                self._leave(f"{self._names[late[0]]} has not come to {self._this_round}")
            self._listen(deadline)
        self._finished = self._round

    @property
    def _this_round(self) -> str:
        return f"round {self._round} of its group within {self._timeout_seconds:g} s"

    @staticmethod
    def _unfinished(messages: Mapping[int, Outgoing | Incoming]) -> list[int]:
        return [rank for rank, message in messages.items() if not message.is_done]

    def _move(self) -> int:
        """Sends and receives what is possible without waiting; the number of bytes."""
        total = 0
        for rank, peer in self._peers.items():
            try:
                total += self._outgoing[rank].send(peer.arrays) + self._incoming[rank].receive(peer.arrays)
            except OSError:
                self._hear(rank)
                self._refuse_if_left()
                self._leave(self._gone(rank))
        return total

    def _listen(self, deadline: float) -> None:
        """Until something can be sent or received, or there is news, which is heard."""
        waiting, ranks = select.poll(), {peer.news.fileno(): rank for rank, peer in self._peers.items()}
        for rank, peer in self._peers.items():
            wanted = 0 if self._outgoing[rank].is_done else select.POLLOUT
            wanted |= 0 if self._incoming[rank].is_done else select.POLLIN
            if wanted:
                waiting.register(peer.arrays, wanted)
            waiting.register(peer.news, select.POLLIN)
        for descriptor, _ in waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
            if descriptor in ranks:
                self._hear(ranks[descriptor])

    def _hear(self, rank: int) -> None:
        """Takes a member's news; FleetError if it is gone without a word."""
        try:
            news = self._news[rank].receive(self._peers[rank].news)
        except OSError:
            self._leave(self._gone(rank))
        else:
            self._left += [] if news is None else [news]

    def _refuse_if_left(self) -> None:
        """FleetError if a member has left that had not finished this round: others may never come to it."""
        for num_rounds, text in self._left:
            if num_rounds < self._round:
                self._broken = text
                raise FleetError(text)

    def _gone(self, rank: int) -> str:
        return f"{self._names[rank]} is gone: it closed its connections before round {self._round} was over"

    def _leave(self, text: str) -> NoReturn:
        self.break_up(text)
        raise FleetError(text)

    def _brought(self, rank: int) -> NDArray[Any]:
        array = self._incoming[rank].array
        if array is None:
            raise FleetError(
                "the members of a group make the same calls; one came to a barrier, one to an exchange"
            )
        return array


@final
class NetworkExchange:
    """An exchange that has been started."""

    def __init__(self, group: NetworkGroup) -> None:
        self._group = group

    def finish(self) -> list[NDArray[Any]]:
        """See `qfleet.fleet.Exchange.finish`."""
        return self._group.collect()
