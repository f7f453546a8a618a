"""The ring against a plain list."""

import numpy as np
import pytest

from qfleet.replay.ring import Fields, Ring, bytes_per_row

FIELDS: Fields = {"number": ((), np.dtype(np.int64)), "pixels": ((3,), np.dtype(np.uint8))}


def rows(first: int, num: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + num)
    return {"number": numbers, "pixels": np.repeat(numbers[:, None] % 256, 3, axis=1).astype(np.uint8)}


@pytest.mark.parametrize("capacity", [1, 7, 16])
def test_keeps_the_newest_rows_however_often_it_wraps(capacity: int) -> None:
    generator, ring, num_rows = np.random.default_rng(0), Ring(capacity, FIELDS), 0
    for _ in range(200):
        num = int(generator.integers(0, capacity + 1))
        ring.append(rows(num_rows, num))
        num_rows += num
        assert ring.num_rows == num_rows and ring.first_row == max(0, num_rows - capacity)
        held = ring.read(ring.first_row, ring.num_rows)
        expected = rows(ring.first_row, ring.num_rows - ring.first_row)
        for name in FIELDS:
            np.testing.assert_array_equal(held[name], expected[name])


def test_written_back_it_goes_on_as_before() -> None:
    ring, restored = Ring(8, FIELDS), Ring(8, FIELDS)
    for first in range(0, 21, 3):
        ring.append(rows(first, 3))
    restored.num_rows = ring.first_row
    restored.append(ring.read(ring.first_row, ring.num_rows))
    for one in (ring, restored):
        one.append(rows(21, 5))
    assert restored.num_rows == ring.num_rows
    for name in FIELDS:
        np.testing.assert_array_equal(restored.columns[name], ring.columns[name])


def test_memory_of_a_row() -> None:
    assert bytes_per_row(FIELDS) == 11
