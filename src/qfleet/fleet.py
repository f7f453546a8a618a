"""The two seams between topologies and backends: services that are called, and groups that work in rounds.

A topology starts services (plain classes with plain methods) and calls them; a backend decides where they
live. Services started together are members of a Group, through which they tell one another arrays. Every wait
has a deadline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

Reduction = Literal["sum", "max", "min"]


@final
@dataclass(frozen=True)
class Answer:
    """What a method returns that has one thing to tell its caller, and another to give to other services."""

    told: Any
    """The result of the call's future."""
    given: Any
    """What the future stands for among the arguments of other calls; its caller never sees it."""


class Future(Protocol):
    """The answer to a call, once it is there."""

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value; of an Answer, what it tells.

        Raises what the method raised; raises FleetError, naming the service, if it is not there in time.
        """
        ...

    def when_done(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once: when the answer is there, or it is known that it will never come; now if it is so.

        It is called by any thread, and must return at once. A service that hangs is not noticed: whoever waits has
        a deadline.
        """
        ...


class Handle(Protocol):
    """A started service."""

    def call(self, method: str, *arguments: Any) -> Future:
        """Asks for a method to be run; calls of one handle run in order, one at a time.

        A future that is an argument itself, of a call of a service of the same fleet, stands for its result (of an
        Answer, for what it gives), which goes from service to service; the call waits for it, and fails with its error
        if it fails. Large arrays in it are not copied where that can be avoided, so they are not to be written to (and
        may be read-only).
        """
        ...


class Board(Protocol):
    """One newest array, which any service may read; makers and arguments may hold it. It ends with its fleet.

    It costs one copy a version, however many read it.
    """

    def write(self, version: int, array: NDArray[Any]) -> None:
        """Puts a C-contiguous array in the place of the one before it, whatever that one's version.

        One service (or the driver) writes at a time. FleetError if the array has more bytes than the board.
        """
        ...

    def read(self, newer_than: int) -> tuple[int, NDArray[np.uint8]] | None:
        """Version and bytes (n,), read-only, of the array written last; None if its version is not newer than that.

        What was written on another node may be seen a moment later. None may be given, too, after the service that
        wrote it was lost, until something else is written.
        """
        ...


class Exchange(Protocol):
    """Arrays on their way."""

    def finish(self) -> list[NDArray[Any]]:
        """One array from every rank, in their order; they may be views, valid until the group's next call.

        Raises FleetError if a member does not answer in time or is gone.
        """
        ...


class Group(Protocol):
    """One member's view of services that work in rounds; every member makes the same calls in the same order.

    Arrays must be C-contiguous; nothing that was handed in may be written to until the group's next call has returned.
    Every call raises FleetError, naming the member, if one does not come to it in time or is gone.
    """

    rank: int
    """0 to size - 1."""
    size: int

    def all_reduce(self, array: NDArray[Any], reduction: Reduction) -> NDArray[Any]:
        """A new array, the members' arrays of one shape and dtype put together element by element.

        Sums add in the order of the ranks, whatever the backend: the same bits everywhere.
        """
        ...

    def broadcast(self, array: NDArray[Any], root: int) -> NDArray[Any]:
        """The root's array; the others hand in one of any shape and dtype."""
        ...

    def exchange(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Gives arrays[r] to rank r, and gets one from every rank; shapes and dtypes may all differ."""
        ...

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> Exchange:
        """The same in two parts, so that it can overlap with computing; one at a time."""
        ...

    def barrier(self) -> None:
        """Returns once all members have come to it."""
        ...


class Recovery(Protocol):
    """What a backend does about services that are gone, or hang: others can be started in their place."""

    def keep(self, handle: Handle, method: str, *arguments: Any) -> Future:
        """Asks for a method to be run, and keeps what it returns where it outlives any one service or node.

        The future's result stands for what was returned: among the arguments of a call of any handle it is
        replaced by it.
        """
        ...

    def forget(self, kept: Sequence[Any]) -> None:
        """Frees what these results of `keep` stand for."""
        ...

    def end(self, handles: Sequence[Handle]) -> None:
        """Ends services at once, whatever they do."""
        ...

    def room(self) -> int:
        """Services of a group that the living nodes have room for, those that run included."""
        ...


class Fleet(Protocol):
    """Where services are started."""

    @property
    def shares_memory(self) -> bool:
        """Whether there are shared arrays."""
        ...

    @property
    def recovery(self) -> Recovery | None:
        """None where a lost service cannot be replaced."""
        ...

    def start(self, name: str, make_service: Callable[[], Any]) -> Handle:
        """Makes a service where it will live; `name` is what errors call it."""
        ...

    def start_group(
        self, names: Sequence[str], make_services: Sequence[Callable[[Group], Any]], timeout_seconds: float
    ) -> Sequence[Handle]:
        """Makes one service for each maker, where it will live, and gives it its place in one new Group.

        `timeout_seconds` is the deadline of the group's calls. Makers must be picklable; arrays that they hold
        are not copied where memory can be shared, and must not be written to.
        """
        ...

    def shared_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeroed memory that all services see and may write to, if their makers hold it.

        Raises FleetError where the backend has no such memory, or not enough.
        """
        ...

    def board(self, num_bytes: int) -> Board:
        """A new board for arrays of up to so many bytes; made before the services that use it are started.

        FleetError where the backend has none.
        """
        ...

    def close(self) -> None:
        """Ends all services; safe to call twice."""
        ...
