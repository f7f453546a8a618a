"""The workers of a topology, as their driver calls them: one, or all at the same time."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, final

from qfleet.errors import FleetError
from qfleet.fleet import Fleet, Future, Group, Handle

_CLOSE_SECONDS = 2.0
_GRACE_SECONDS = 2.0
"""Workers that wait for another name it first; the driver would name them."""
_LATER_SECONDS = 0.5
"""How long the others are waited for once one has failed."""
START_SECONDS = 300.0
"""For importing, compiling and the first states."""


@final
class Workers:
    """A group of services, one for each maker; they can be replaced by new ones where the fleet has a recovery."""

    def __init__(
        self, fleet: Fleet, makers: Sequence[Callable[[Group], Any]], stall_timeout_seconds: float
    ) -> None:
        self._fleet, self._makers, self._timeout_seconds = fleet, makers, stall_timeout_seconds
        self._names = [f"worker {rank}" for rank in range(len(makers))]
        self._is_broken = False
        self._handles: Sequence[Handle] = self._started()

    def __len__(self) -> int:
        return len(self._makers)

    def _started(self) -> Sequence[Handle]:
        return self._fleet.start_group(self._names, self._makers, self._timeout_seconds)

    @property
    def can_be_replaced(self) -> bool:
        """Whether `replace` works here."""
        return self._fleet.recovery is not None

    def replace(self) -> None:
        """Ends all of them, whatever they do, and starts new ones."""
        self.end()
        self._handles, self._is_broken = self._started(), False

    def end(self) -> None:
        """Ends all of them, whatever they do."""
        recovery = self._fleet.recovery
        assert recovery is not None, "the driver asks whether they can be replaced"
        self._is_broken = True
        recovery.end(self._handles)

    def one(self, rank: int, method: str, *arguments: Any) -> Any:
        """One call of one worker."""
        return self._handles[rank].call(method, *arguments).result(self._timeout_seconds)

    def all(self, method: str, *arguments: Any, timeout_seconds: float | None = None) -> list[Any]:
        """One call of every worker at the same time."""
        return self.each(method, [arguments] * len(self), timeout_seconds)

    def each(
        self, method: str, arguments: Sequence[tuple[Any, ...]], timeout_seconds: float | None = None
    ) -> list[Any]:
        """The same with arguments of its own for each; an error names the worker that is its cause."""
        timeout = self._timeout_seconds + _GRACE_SECONDS if timeout_seconds is None else timeout_seconds
        calls = zip(self._handles, arguments, strict=True)
        try:
            return _results([handle.call(method, *given) for handle, given in calls], timeout)
        except FleetError:
            self._is_broken = True
            raise

    def keep(self, method: str, *ranks: int) -> list[Any]:
        """What stands for the results of a call of these workers, which outlive them."""
        recovery = self._fleet.recovery
        assert recovery is not None, "the driver asks whether they can be replaced"
        futures = [recovery.keep(self._handles[rank], method) for rank in ranks]
        return _results(futures, self._timeout_seconds + _GRACE_SECONDS)

    def forget(self, kept: Sequence[Any]) -> None:
        """Frees what these results of `keep` stand for."""
        if self._fleet.recovery is not None:
            self._fleet.recovery.forget(kept)

    def close(self) -> None:
        """Lets them free what they hold, if none of them is dead or hangs: they would be waited for."""
        if not self._is_broken:
            with suppress(Exception):
                self.all("close", timeout_seconds=_CLOSE_SECONDS)


def _results(futures: Sequence[Future], timeout_seconds: float) -> list[Any]:
    """All results; of several errors the one that is no mere consequence of another worker's."""
    results, errors, deadline = [], [], time.monotonic() + timeout_seconds
    for future in futures:
        left = max(0.0, deadline - time.monotonic())
        try:
            results.append(future.result(min(left, _LATER_SECONDS) if errors else left))
        except Exception as error:
            errors.append(error)
    if errors:
        raise next((error for error in errors if not isinstance(error, FleetError)), errors[0])
    return results
