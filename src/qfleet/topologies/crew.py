"""Services that a driver calls: whoever is done first is heard first, and whoever is lost is replaced."""

import queue
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, final

from qfleet.errors import FleetError, QfleetError
from qfleet.fleet import Fleet, Future, Handle
from qfleet.topologies.restarts import Restarts

START_SECONDS = 300.0
"""For importing, compiling and the first states."""
_CLOSE_SECONDS = 2.0

Tag = TypeVar("Tag", bound=Hashable)


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
        self._fleet, self._role, self._makers, self._restarts = fleet, role, list(makers), restarts
        self.timeout_seconds = stall_timeout_seconds
        self.incarnations = [0] * len(self._makers)
        """How often each was replaced."""
        self._handles: list[Handle] = [self._started(number) for number in range(len(self._makers))]

    def __len__(self) -> int:
        return len(self._handles)

    def _started(self, number: int) -> Handle:
        incarnation, make = self.incarnations[number], self._makers[number]
        return self._fleet.start(f"{self._role} {number}", _Maker(make, incarnation))

    def call(self, number: int, method: str, *arguments: Any) -> Future:
        """Asks one for a method; futures of any role may be among the arguments."""
        return self._handles[number].call(method, *arguments)

    def one(self, number: int, method: str, *arguments: Any, timeout_seconds: float | None = None) -> Any:
        """The same, waited for."""
        return self.call(number, method, *arguments).result(timeout_seconds or self.timeout_seconds)

    def all(self, method: str, *arguments: Any, timeout_seconds: float | None = None) -> list[Any]:
        """The same of every one, at the same time."""
        timeout = timeout_seconds or self.timeout_seconds
        futures = [handle.call(method, *arguments) for handle in self._handles]
        deadline = time.monotonic() + timeout
        return [future.result(max(0.0, deadline - time.monotonic())) for future in futures]

    def replace(self, number: int, error: FleetError, num_steps: int) -> None:
        """Puts a new one in the place of one that is lost; raises the error if the budget is spent, or on threads."""
        recovery = self._fleet.recovery
        if recovery is None:
            raise error
        self._restarts.spend(error, num_steps)
        recovery.end([self._handles[number]])
        self.incarnations[number] += 1
        self._handles[number] = self._started(number)

    def close(self) -> None:
        """Lets them free what they hold."""
        with suppress(QfleetError):
            self.all("close", timeout_seconds=_CLOSE_SECONDS)


@final
class _Maker:
    """A maker with its argument; picklable."""

    def __init__(self, make: Callable[[int], Any], incarnation: int) -> None:
        self._make, self._incarnation = make, incarnation

    def __call__(self) -> Any:
        return self._make(self._incarnation)


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

    def forget(self, tag: Tag) -> None:
        """It is no longer waited for."""
        self._waiting.pop(tag, None)

    def next(self) -> tuple[Tag, Future]:
        """The next that is done, whose result is there at once, or that is late, whose result says so."""
        while True:
            late, (future, deadline) = min(self._waiting.items(), key=lambda item: item[1][1])
            try:
                tag, done = self._done.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                del self._waiting[late]
                return late, future
            if tag in self._waiting and self._waiting[tag][0] is done:
                del self._waiting[tag]
                return tag, done
