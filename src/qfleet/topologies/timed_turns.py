"""Turns that end at fixed steps, so that what happens between them does too; a clock only cuts them into parts."""

import time
from collections.abc import Callable, Iterator

_TURNS = 200
_FIRST_STEPS = 2**9
_LONGEST_SECONDS = 0.5
"""Of a call to the workers: signals are heard between two."""


def timed_turns(
    total_steps: int, num_steps: Callable[[], int], advance: Callable[[int], object]
) -> Iterator[bool]:
    """Advances by a two-hundredth of the run at each turn; after each call, whether it was only a part of one."""
    length, most = max(1, total_steps // _TURNS), _FIRST_STEPS
    while num_steps() < total_steps:
        end = min(total_steps, (num_steps() // length + 1) * length)
        while (before := num_steps()) < end:
            started = time.perf_counter()
            advance(min(end, before + most))
            rate = (num_steps() - before) / max(time.perf_counter() - started, 1e-6)
            most = max(1, int(rate * _LONGEST_SECONDS))
            yield num_steps() < end
