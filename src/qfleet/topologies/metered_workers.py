"""Workers of a group with a meter: how long they compute, and how long they are at exchanges."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, final

from numpy.typing import NDArray

from qfleet.fleet import Exchange, Group, Reduction
from qfleet.topologies.metering import Reading

Found = TypeVar("Found")


@final
class MeteredGroup:
    """A group, and the seconds that one member has spent in its calls: at work there, or waiting for others."""

    def __init__(self, group: Group) -> None:
        self._group, self.rank, self.size = group, group.rank, group.size
        self.seconds = 0.0

    def all_reduce(self, array: NDArray[Any], reduction: Reduction) -> NDArray[Any]:
        """The group's."""
        return self.measured(lambda: self._group.all_reduce(array, reduction))

    def broadcast(self, array: NDArray[Any], root: int) -> NDArray[Any]:
        """The group's."""
        return self.measured(lambda: self._group.broadcast(array, root))

    def exchange(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The group's."""
        return self.measured(lambda: self._group.exchange(arrays))

    def start_exchange(self, arrays: Sequence[NDArray[Any]]) -> Exchange:
        """The group's; what happens until it is finished is not counted."""
        return _MeteredExchange(self, self.measured(lambda: self._group.start_exchange(arrays)))

    def barrier(self) -> None:
        """The group's."""
        self.measured(self._group.barrier)

    def measured(self, call: Callable[[], Found]) -> Found:
        """Counts the time of a call."""
        started = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds += time.perf_counter() - started


@final
class _MeteredExchange:
    def __init__(self, group: MeteredGroup, exchange: Exchange) -> None:
        self._group, self._exchange = group, exchange

    def finish(self) -> list[NDArray[Any]]:
        """The exchange's."""
        return self._group.measured(self._exchange.finish)


@final
class MeteredMaker:
    """Makes a worker whose reports have a reading of its meter; picklable if the maker is."""

    def __init__(self, make: Callable[[Group], Any]) -> None:
        self._make = make

    def __call__(self, group: Group) -> Any:
        """With its group."""
        metered = MeteredGroup(group)
        return _MeteredWorker(self._make(metered), metered)


@final
class _MeteredWorker:
    """Everything but the reading is the worker's own."""

    def __init__(self, worker: Any, group: MeteredGroup) -> None:
        self._worker, self._group = worker, group

    def advance(self, *arguments: Any) -> Any:
        """The worker's; time in which it exchanged, or waited for others to, is no work."""
        before, started = self._group.seconds, time.perf_counter()
        report = self._worker.advance(*arguments)
        seconds, exchanging = time.perf_counter() - started, self._group.seconds - before
        return replace(report, reading=Reading(seconds - exchanging, seconds))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)
