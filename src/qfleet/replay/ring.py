"""A ring of rows: an append-only sequence of which the newest `capacity` rows are kept.

Rows are numbered from the first ever appended, and never change once written; row r lies at slot
r % capacity. That numbering is what references between rings, checkpoints and samples use.
"""

import math
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
        numbers = _taken((capacity,), _numbers_of_a_row(fields))
        self.columns: dict[str, NDArray] = {
            name: _taken((capacity, *shape), dtype) if shape else numbers[name]
            for name, (shape, dtype) in fields.items()
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


def _numbers_of_a_row(fields: Fields) -> np.dtype:
    """The columns of single numbers lie row by row: a row drawn at random costs one cache miss, not one a column."""
    numbers = [(name, dtype) for name, (shape, dtype) in fields.items() if not shape]
    return np.dtype(numbers, align=True)


def _taken(shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """Zeros whose memory is really taken, now: a run that does not fit ends at its start and not hours later."""
    array = np.empty(shape, dtype)
    array[...] = np.zeros((), dtype)
    return array


def bytes_per_row(fields: Fields) -> int:
    """Memory of one row."""
    arrays = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values() if shape)
    return arrays + _numbers_of_a_row(fields).itemsize
