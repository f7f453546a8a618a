"""Services that a driver calls: whoever is done first is heard first, and whoever is lost is replaced."""

import itertools
import queue
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, final

from qfleet.errors import FleetError
from qfleet.fleet import Fleet, Future, Handle
from qfleet.topologies.metering import Metered, Reading
from qfleet.topologies.restarts import Restarts

START_SECONDS = 300.0
"""For importing, compiling and the first states."""

Tag = TypeVar("Tag", bound=Hashable)


@dataclass(frozen=True)
class CallUnderWay:
    """A call that is not over."""

    method: str
    future: Future
    given: tuple[Future, ...]
    """Those among its arguments, which it waits for."""


def _forget(calls: dict[int, CallUnderWay], key: int) -> None:
    del calls[key]


@final
class Crew:
    """Services of one role, numbered from 0; the run's budget of restarts is shared by all roles."""

    def __init__(
        self,
        fleet: Fleet,
        role: str,
        makers: Sequence[Callable[[int], Any]],
        restarts: Restarts,
        stall_timeout_seconds: float,
    ) -> None:
        """A maker is given how often the service of its number was replaced, and must be picklable."""
        self._fleet, self.role, self._makers, self._restarts = fleet, role, list(makers), restarts
        self.timeout_seconds = stall_timeout_seconds
        self.incarnations = [0] * len(self._makers)
        """How often each was replaced."""
        self._keys = itertools.count()
        self._under_way: list[dict[int, CallUnderWay]] = [{} for _ in self._makers]
        self.readings = [Reading() for _ in self._makers]
        """Of every one's meter, as it said last."""
        self._asked: list[Future | None] = [None] * len(self._makers)
        self._read: queue.SimpleQueue[tuple[int, Future]] = queue.SimpleQueue()
        self._handles: list[Handle] = [self._started(number) for number in range(len(self._makers))]

    def __len__(self) -> int:
        return len(self._handles)

    def _started(self, number: int) -> Handle:
        incarnation, make = self.incarnations[number], self._makers[number]
        return self._fleet.start(f"{self.role} {number}", _Maker(make, incarnation))

    def call(self, number: int, method: str, *arguments: Any) -> Future:
        """Asks one for a method; futures of any role may be among the arguments."""
        future = self._handles[number].call(method, *arguments)
        calls, key = self._under_way[number], next(self._keys)
        calls[key] = CallUnderWay(
            method, future, tuple(one for one in arguments if hasattr(one, "when_done"))
        )
        future.when_done(partial(_forget, calls, key))
        return future

    def one(self, number: int, method: str, *arguments: Any, timeout_seconds: float | None = None) -> Any:
        """The same, waited for."""
        return self.call(number, method, *arguments).result(timeout_seconds or self.timeout_seconds)

    def all(self, method: str, *arguments: Any, timeout_seconds: float | None = None) -> list[Any]:
        """The same of every one, at the same time."""
        timeout = timeout_seconds or self.timeout_seconds
        futures = [self.call(number, method, *arguments) for number in range(len(self))]
        deadline = time.monotonic() + timeout
        return [future.result(max(0.0, deadline - time.monotonic())) for future in futures]

    @property
    def is_replaceable(self) -> bool:
        """Whether lost ones can be replaced, and how often at all is not spent."""
        return self._fleet.recovery is not None and self._restarts.used < self._restarts.allowed

    def under_way(self, number: int) -> list[CallUnderWay]:
        """What one was asked and has not answered, in the order in which it runs them."""
        return [call for _, call in sorted(self._under_way[number].items())]

    @property
    def num_queued(self) -> int:
        """Calls that have not begun, of all of them."""
        return sum(max(0, len(calls) - 1) for calls in self._under_way)

    def ask_meters(self) -> None:
        """Takes what meters have answered, and asks those that have: it is never waited for."""
        while not self._read.empty():
            number, future = self._read.get_nowait()
            if future is self._asked[number]:
                self._asked[number] = None
                with suppress(FleetError):
                    self.readings[number] = future.result(0.0)
        for number, handle in enumerate(self._handles):
            if self._asked[number] is None:
                future = self._asked[number] = handle.call("read_meter")
                future.when_done(partial(self._read.put, (number, future)))

    def end(self, number: int, error: FleetError, num_steps: int) -> None:
        """Ends one that is lost; raises the error if the budget is spent, or where none can be replaced."""
        recovery = self._fleet.recovery
        if recovery is None:
            raise error
        self._restarts.spend(error, num_steps)
        recovery.end([self._handles[number]])

    def start_another(self, number: int) -> None:
        """Puts a new one in the place of one that was ended."""
        self.incarnations[number] += 1
        self._under_way[number], self._asked[number] = {}, None
        self._handles[number] = self._started(number)


@final
class _Maker:
    """A maker with its argument; picklable."""

    def __init__(self, make: Callable[[int], Any], incarnation: int) -> None:
        self._make, self._incarnation = make, incarnation

    def __call__(self) -> Any:
        return Metered(self._make(self._incarnation))


@final
class Completions(Generic[Tag]):
    """Futures that are waited for at the same time, each with a tag and the deadline of its call."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._waiting: dict[Tag, tuple[Future, float]] = {}
        self._done: queue.SimpleQueue[tuple[Tag, Future]] = queue.SimpleQueue()

    def __contains__(self, tag: Tag) -> bool:
        return tag in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def watch(self, tag: Tag, future: Future) -> None:
        """Waits for it, too; in the place of another of the same tag."""
        self._waiting[tag] = future, time.monotonic() + self._timeout_seconds
        future.when_done(lambda: self._done.put((tag, future)))

    def next(self) -> tuple[Tag, Future]:
        """The next that is done, whose result is there at once; FleetError if one is late, which is forgotten."""
        while True:
            late, (_, deadline) = min(self._waiting.items(), key=lambda item: item[1][1])
            try:
                tag, done = self._done.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                del self._waiting[late]
                raise FleetError(
                    f"a chain of calls ({late}) is not over after {self._timeout_seconds:g} s"
                ) from None
            if tag in self._waiting and self._waiting[tag][0] is done:
                del self._waiting[tag]
                return tag, done
