"""How fast workers are, and what part of a round each is to make."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

_MEMORY_SECONDS = 0.5
"""Of computing, over which speeds are averaged; where rounds are longer, mostly the latest one counts."""
_LEAST_KEPT = 0.3
_LEAST_SECONDS = 0.02
"""Of computing, before a speed is one: a round of microseconds may have been interrupted for longer than it took."""
_LEAST_SHARE = 1 / 16
"""Of an even one: a worker that was stopped for a while must be seen to be fast again."""


def even_portions(steps: int, num_workers: int, first: int) -> list[int]:
    """Steps of each worker, alike; odd ones go round with `first`, so that they reach who can make them."""
    odd = steps % num_workers
    return [steps // num_workers + ((rank + first) % num_workers < odd) for rank in range(num_workers)]


def portions_by(shares: NDArray[np.float64], steps: int, first: int) -> list[int]:
    """The same by shares (num_workers,) of a sum of 1; the last one in turn gets what rounding leaves."""
    order = (np.arange(shares.size) + first) % shares.size
    ends = np.floor(np.cumsum(shares[order]) * steps).astype(np.int64)
    ends[-1] = steps
    portions = np.empty(shares.size, np.int64)
    portions[order] = np.diff(ends, prepend=0)
    return portions.tolist()


@final
class Pace:
    """The speeds of all workers, smoothed over rounds: each worker keeps all of them, from the same numbers."""

    def __init__(self, num_workers: int) -> None:
        self._steps, self._seconds = np.zeros(num_workers), np.zeros(num_workers)

    def note(self, steps: NDArray[np.int64], nanoseconds: NDArray[np.int64]) -> None:
        """What all workers (num_workers,) did in a round, and how long each of them computed."""
        seconds = nanoseconds / 1e9
        kept = max(_LEAST_KEPT, float(np.exp(-seconds.max() / _MEMORY_SECONDS)))
        self._steps = kept * self._steps + steps
        self._seconds = kept * self._seconds + seconds

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of the sum of all speeds, (num_workers,); who has hardly computed yet counts as one of mean speed."""
        known = (self._steps > 0) & (self._seconds > _LEAST_SECONDS)
        if not known.any():
            return np.full(known.size, 1 / known.size)
        speeds = self._steps / np.where(known, self._seconds, 1.0)
        speeds[~known] = speeds[known].mean()
        shares = np.maximum(speeds / speeds.sum(), _LEAST_SHARE / speeds.size)
        return shares / shares.sum()

    def save_state(self) -> dict[str, Any]:
        """The sums."""
        return {"steps": self._steps, "seconds": self._seconds}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self._steps, self._seconds = state["steps"].copy(), state["seconds"].copy()
