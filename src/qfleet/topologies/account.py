"""What the driver of a topology of services knows of its roles."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from qfleet.topologies.crew import Crew
from qfleet.topologies.looks import Looks
from qfleet.topologies.metering import Reading
from qfleet.topologies.role_totals import RoleTotals, Totals

_SAMPLE_SECONDS, _ASK_SECONDS = 0.01, 0.2


@dataclass(frozen=True)
class Done:
    """What a run has done since it began."""

    num_steps: int
    num_updates: int
    amounts: Mapping[str, tuple[float, str]]
    """By role: how much, and of what."""


@final
class Account:
    """Every crew is a role, and the driver is one, too, called `driver`."""

    def __init__(self, driver: str, crews: Sequence[Crew], done: Callable[[], Done]) -> None:
        self._driver, self._crews, self._done = driver, crews, done
        self._started = time.perf_counter()
        self._turn_seconds = self._work_seconds = 0.0
        self._queued, self._num_samples = [0.0] * len(crews), 0
        self._sampled_at = self._asked_at = 0.0
        self.looks = Looks(self._totals)

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is done inside is the driver's work."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._turn_seconds += time.perf_counter() - started
            self._work_seconds += time.perf_counter() - started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside of its work: what is done inside is none."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._work_seconds -= time.perf_counter() - started

    def sample(self) -> None:
        """Looks at the queues and asks for the meters, if it is time to; cheap to call often."""
        now = time.perf_counter()
        if now - self._sampled_at >= _SAMPLE_SECONDS:
            self._sampled_at, self._num_samples = now, self._num_samples + 1
            for index, crew in enumerate(self._crews):
                self._queued[index] += crew.num_queued
        if now - self._asked_at >= _ASK_SECONDS:
            self._asked_at = now
            for crew in self._crews:
                crew.ask_meters()

    def _totals(self) -> Totals:
        done = self._done()
        roles = [
            RoleTotals(
                crew.role, *done.amounts[crew.role], tuple(crew.readings), queued, sum(crew.incarnations)
            )
            for crew, queued in zip(self._crews, self._queued, strict=True)
        ]
        meter = Reading(self._work_seconds, time.perf_counter() - self._started)
        driver = RoleTotals(self._driver, *done.amounts[self._driver], (meter,))
        return Totals(
            self._turn_seconds, self._num_samples, done.num_steps, done.num_updates, (*roles, driver)
        )
