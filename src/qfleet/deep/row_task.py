"""A network on the surface of a table: a row of numbers. Topologies that work in rounds cannot tell it from one."""

from abc import ABC
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.tabular.records import Table

_NO_COUNTS = (0, 0, 0)


@dataclass(frozen=True)
class RowTask(ABC):
    """What every worker learns: parameters, with the buffers of a module behind them, are a table of one row."""

    seed: int
    total_steps: int
    num_workers: int
    num_values: int
    """Parameters and buffers."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, 1, num_values)."""
        return 1, 1, self.num_values

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return np.dtype(np.float32)

    @property
    def initial_value(self) -> float:
        """Whoever starts the workers gives them values."""
        return 0.0

    @property
    def counts_visits(self) -> bool:
        """A network's numbers are updated all at once."""
        return False

    def make_table(
        self, values: NDArray[Any], *, weighted: bool = False, visits: NDArray[np.uint32] | None = None
    ) -> Table:
        """The values, with nothing counted beside them."""
        return Table(values, np.zeros(_NO_COUNTS, np.uint32), np.zeros(_NO_COUNTS, np.float64))
