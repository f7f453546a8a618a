"""How far inserting and sampling may run ahead of each other: arithmetic, not a clock.

Reverb's SampleToInsertRatio (Cassirer et al. 2021, arXiv 2102.04736, section 3.4): the balance is what inserting
has earned, less what sampling has spent. Both stay possible while it is within a buffer on either side.
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError


@final
class RateLimiter:
    """Keeps updates at `updates_per_step` times the steps after `learning_starts_steps`, give or take a buffer."""

    def __init__(
        self,
        updates_per_step: float,
        learning_starts_steps: int,
        buffer_updates: float,
        *,
        largest_insert_steps: int,
        largest_sample_updates: int,
    ) -> None:
        """Raises QfleetError where inserting and sampling, in pieces of these sizes, could both come to a halt."""
        piece = largest_insert_steps * updates_per_step + largest_sample_updates
        if 2 * buffer_updates < piece:
            raise QfleetError(
                f"a buffer of {buffer_updates:g} updates is too small where {largest_insert_steps} steps are inserted "
                f"and {largest_sample_updates} updates sampled at once: neither could go on; "
                f"it must be at least {piece / 2:g}"
            )
        self._ratio, self._starts, self._buffer = updates_per_step, learning_starts_steps, buffer_updates
        self.num_steps, self.num_updates = 0, 0

    def balance(self) -> float:
        """Updates that the steps made so far are good for, less those sampled."""
        return (self.num_steps - self._starts) * self._ratio - self.num_updates

    def may_insert(self, num_steps: int) -> bool:
        """Whether that many steps would not run too far ahead; always, until learning has started."""
        if self.num_steps < self._starts:
            return True
        return self.balance() + num_steps * self._ratio <= self._buffer

    def may_sample(self, num_updates: int) -> bool:
        """Whether batches for that many updates would not run too far ahead; never before learning has started."""
        return self.num_steps >= self._starts and self.balance() - num_updates >= -self._buffer

    def insert(self, num_steps: int) -> None:
        """Counts steps that were inserted, also those that came after all."""
        self.num_steps += num_steps

    def sample(self, num_updates: int) -> None:
        """Counts updates for which batches were drawn."""
        self.num_updates += num_updates

    def save_state(self) -> NDArray[np.int64]:
        """The two counts."""
        return np.array([self.num_steps, self.num_updates], np.int64)

    def load_state(self, state: NDArray[np.int64]) -> None:
        """Puts back what `save_state` returned."""
        self.num_steps, self.num_updates = (int(count) for count in state)
