"""How long services work: measured where they live."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final


@dataclass(frozen=True)
class Reading:
    """How long a service has worked, and been there, in seconds."""

    busy_seconds: float = 0.0
    seconds: float = 0.0


NOTHING_READ = Reading()


def sums(some: Sequence[Reading], others: Sequence[Reading]) -> list[Reading]:
    """Member by member."""
    return [
        Reading(one.busy_seconds + other.busy_seconds, one.seconds + other.seconds)
        for one, other in zip(some, others, strict=True)
    ]


@final
class Metered:
    """A service with a meter; everything else is the service's own."""

    def __init__(self, service: Any) -> None:
        self._service, self._busy_seconds, self._started = service, 0.0, time.perf_counter()

    def read_meter(self) -> Reading:
        """Time in which it waited for what it was called with is no work."""
        return Reading(self._busy_seconds, time.perf_counter() - self._started)

    def __getattr__(self, name: str) -> Any:
        return partial(self._measured, getattr(self._service, name))

    def _measured(self, method: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*arguments)
        finally:
            self._busy_seconds += time.perf_counter() - started
