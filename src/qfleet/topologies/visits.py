"""How evenly visits are spread over the workers of a cut: looked at now and then, ever less often."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Group
from qfleet.tabular.border import Border
from qfleet.tabular.cut import Cut, imbalance

_FIRST_LOOK_ROUNDS = 16
"""Rounds before the first look; between two looks there are twice as many each time."""


@final
class Visits:
    """Of all workers, by where they were made; what one worker knows of them."""

    def __init__(self, border: Border, group: Group) -> None:
        self._border, self._group = border, group
        self.imbalance_before = self.imbalance_now = 1.0
        """Of the first look, and of the latest."""
        self._load_before, self._looked_at = border.load.copy(), (0, 0)
        """This worker's visits, the rounds and the steps at the last look that borders could move after."""
        self._num_looks = 0

    def is_due(self, rounds: int, steps: int, most_steps: int) -> bool:
        """Whether to look again: rounds may end early, and a few visits say nothing of where most are."""
        rounds_due = rounds - self._looked_at[0] >= _FIRST_LOOK_ROUNDS << self._num_looks
        return rounds_due and self.is_known(steps, most_steps)

    def is_known(self, steps: int, most_steps: int) -> bool:
        """Whether there were enough steps since then for a look to say anything."""
        return self._group.size > 1 and steps - self._looked_at[1] >= most_steps

    def look(self, cut: Cut, shares: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """All workers' visits since then, by block of positions; all workers call it together."""
        load = self._group.all_reduce(self._border.load - self._load_before, "sum")
        self.imbalance_now = imbalance(cut, load, self._border.load_shift, shares)
        if not self._num_looks:
            self.imbalance_before = self.imbalance_now
        return load

    def begin_again(self, rounds: int, steps: int) -> None:
        """From here on visits are counted anew."""
        self._load_before = self._border.load.copy()
        self._looked_at = rounds, steps
        self._num_looks += 1

    def save_state(self) -> dict[str, Any]:
        """All but what the border counts."""
        return {
            "imbalances": np.array([self.imbalance_before, self.imbalance_now]),
            "load_before": self._load_before,
            "looked_at": list(self._looked_at),
            "looks": self._num_looks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with it."""
        self.imbalance_before, self.imbalance_now = state["imbalances"].tolist()
        self._load_before[...] = state["load_before"]
        self._looked_at = state["looked_at"][0], state["looked_at"][1]
        self._num_looks = state["looks"]
