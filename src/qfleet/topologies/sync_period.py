"""How long rounds are: as many steps as were asked for, or as make exchanges take under a tenth of the time."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import numpy as np

from qfleet.fleet import Group

SyncEvery = Literal["steps", "auto"]

MOST_FRACTION = 0.1
_WANTED_FRACTION = 0.07
"""What a round is lengthened to, so that it stays below the most."""
_LEAST_FRACTION = 0.02
"""Below it, rounds are halved: exchanges cost next to nothing, and values across borders are fresher."""
_SHORTEST_STEPS, _LONGEST_STEPS = 2**8, 2**25
_FIRST_WINDOW, _LONGEST_WINDOW = 4, 64
"""Rounds that are measured before each choice; twice as many each time that nothing has changed."""


def chosen_steps(steps: int, fraction: float, shortest: int, longest: int) -> int:
    """Steps of a round, where rounds of `steps` spend `fraction` of their time on exchanges; by factors of two.

    What an exchange takes does not depend on the round's length, so that computing must be lengthened from
    (1 - fraction) to (1 - wanted) / wanted times `fraction`.
    """
    if fraction > MOST_FRACTION:
        factor = fraction / max(1 - fraction, 1e-9) * (1 - _WANTED_FRACTION) / _WANTED_FRACTION
        return max(steps, min(longest, steps << min(math.ceil(math.log2(factor)), 32)))
    if fraction < _LEAST_FRACTION:
        return min(steps, max(shortest, steps // 2))
    return steps


@final
class SyncPeriod:
    """Steps of each worker's round, the same for all; measures computing and all else where it is to choose."""

    def __init__(self, first_steps: int, total_steps: int, sync_every: SyncEvery, group: Group) -> None:
        self.steps = first_steps
        self._group, self._is_auto = group, sync_every == "auto" and group.size > 1
        self._longest = max(first_steps, min(_LONGEST_STEPS, total_steps // (20 * group.size)))
        self._shortest = min(first_steps, _SHORTEST_STEPS)
        self._window, self._rounds, self._seconds = _FIRST_WINDOW, 0, np.zeros(2)
        """Rounds of a window, those so far, and their seconds: of computing, and in all."""
        self._fraction = 0.0
        self.computed_nanoseconds = 0
        """Of the latest computing."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """What is done within it is computing; the rest of a round is communication."""
        started = time.perf_counter_ns()
        yield
        self.computed_nanoseconds = time.perf_counter_ns() - started
        self._seconds[0] += self.computed_nanoseconds / 1e9

    @contextmanager
    def round(self) -> Iterator[None]:
        """A whole round."""
        started = time.perf_counter()
        yield
        self._seconds[1] += time.perf_counter() - started
        self._rounds += 1

    @property
    def is_due(self) -> bool:
        """Whether enough rounds were measured; the same on all workers."""
        return self._is_auto and self._rounds >= self._window

    def choose(self) -> None:
        """Agrees on the length of the rounds to come; all workers call it together, with nothing under way.

        The worker that computes longest waits for nobody: what it does not compute is communication. Waiting
        for a slow worker is none: no other length would make it shorter.
        """
        computing, whole = self._group.all_reduce(self._seconds, "max").tolist()
        self._fraction = max(0.0, 1 - computing / whole)
        steps = chosen_steps(self.steps, self._fraction, self._shortest, self._longest)
        self._window = _FIRST_WINDOW if steps != self.steps else min(2 * self._window, _LONGEST_WINDOW)
        self.steps = steps
        self.forget()

    def forget(self) -> None:
        """Measures anew: the rounds so far say nothing of those to come."""
        self._rounds = 0
        self._seconds = np.zeros(2)  # others may still read the old ones

    def measured(self) -> dict[str, float]:
        """What was chosen, if anything was to be."""
        if not self._is_auto:
            return {}
        return {"sync_every_steps": float(self.steps), "communication_fraction": self._fraction}

    def save_state(self) -> dict[str, Any]:
        """What was chosen; what is being measured is measured anew."""
        return {"steps": self.steps, "window": self._window, "fraction": self._fraction}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with it."""
        self.steps, self._window, self._fraction = state["steps"], state["window"], state["fraction"]
        self.forget()
