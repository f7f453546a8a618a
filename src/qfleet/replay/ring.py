"""A ring of rows: an append-only sequence of which the newest `capacity` rows are kept.

Rows are numbered from the first ever appended, and never change once written; row r lies at slot
r % capacity. That numbering is what references between rings, checkpoints and samples use.
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

Fields = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Name of each column: shape of one entry, dtype."""


@final
class Ring:
    """Columns of `capacity` rows each, written in order."""

    def __init__(self, capacity: int, fields: Fields) -> None:
        self.capacity = capacity
        self.num_rows = 0
        """Rows ever appended; the next row's number."""
        self.columns: dict[str, NDArray] = {
            name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in fields.items()
        }

    @property
    def first_row(self) -> int:
        """Number of the oldest row still held."""
        return max(0, self.num_rows - self.capacity)

    def append(self, rows: dict[str, NDArray]) -> None:
        """Appends rows given as columns of equal length, at most `capacity` of them."""
        num = len(next(iter(rows.values())))
        start = self.num_rows % self.capacity
        head = min(num, self.capacity - start)
        for name, column in self.columns.items():
            column[start : start + head] = rows[name][:head]
            column[: num - head] = rows[name][head:]
        self.num_rows += num

    def read(self, first: int, last: int) -> dict[str, NDArray]:
        """Copies rows [first, last), which must still be held, out as columns."""
        slots = np.arange(first, last) % self.capacity
        return {name: column[slots] for name, column in self.columns.items()}

    def write(self, first: int, rows: dict[str, NDArray]) -> None:
        """Puts rows that `read` returned back under their old numbers, in ascending order."""
        self.num_rows = first
        self.append(rows)


def bytes_per_row(fields: Fields) -> int:
    """Memory of one row."""
    return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in fields.values())
