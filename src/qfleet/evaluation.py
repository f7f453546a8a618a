"""What greedy episodes returned, and their seeds: episodes that no training step ever saw."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Interrupted = Callable[[], bool]
"""Asked now and then whether to give up."""

PERIODIC, CONFIRMING, FINAL = 1, 2, 3
"""What an evaluation is for: each purpose has episodes of its own, so none that chose a checkpoint judges it."""


@dataclass(frozen=True)
class Evaluation:
    """Returns of greedy episodes."""

    returns: NDArray[np.float64]
    """(episodes,) undiscounted."""
    lengths: NDArray[np.int64]
    """(episodes,) steps."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return."""
        return float(np.std(self.returns) / np.sqrt(len(self.returns)))

    def summary(self) -> dict[str, float | int]:
        """As a run's summary holds it."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": float(np.std(self.returns)),
            "mean_length": float(np.mean(self.lengths)),
        }


def evaluation_seed(seed: int, purpose: int, number: int) -> int:
    """A seed for evaluation environments; training derives its own from another sequence."""
    return int(np.random.SeedSequence([seed, 0x6576616C, purpose, number]).generate_state(1)[0])
