"""A state whose every value follows from its step, and a ring buffer whose rows follow from their numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.runs.state_tree import LoadedState, State
from qfleet.runs.streams import Stream

CAPACITY, ROWS_PER_STEP = 300, 7
SEGMENT_BYTES = 32 * 26  # 32 rows: a row below is 26 bytes


def rows(first: int, last: int) -> dict[str, NDArray]:
    numbers = np.arange(first, last)
    return {
        "observation": (numbers[:, None] * np.array([3, 5, 7, 11])).astype(np.float32),
        "action": (numbers % 251).astype(np.uint8),
        "reward": numbers.astype(np.float64) / 3,
        "terminated": numbers % 5 == 0,
    }


def stream(num_rows: int, capacity: int = CAPACITY) -> Stream:
    return Stream(max(0, num_rows - capacity), num_rows, rows)


def state(step: int, num_rows: int | None = None) -> State:
    generator = np.random.default_rng(step)
    return {
        "counters": {
            "step": step,
            "rate": step / 7,
            "name": "ε",
            "nothing": None,
            "flags": [True, False, 1.5],
        },
        "random_state": 2**127 + step,
        "learner": {
            "values": generator.normal(size=(5, 3)).astype(np.float32),
            "mask": generator.random(9) < 0.5,
        },
        "large": generator.integers(0, 2**64, size=4, dtype=np.uint64),
        "scalar": np.array(step, dtype=np.uint64),
        "empty": np.zeros((0, 3), dtype=np.int32),
        "replay": {"rows": stream(ROWS_PER_STEP * step if num_rows is None else num_rows)},
    }


def assert_equal(loaded: Any, saved: Any) -> None:
    if isinstance(saved, Stream):
        assert (loaded.first, loaded.last) == (saved.first, saved.last)
        assert_rows(loaded.read_segments(), saved)
    elif isinstance(saved, dict):
        assert list(loaded) == list(saved)
        for key, value in saved.items():
            assert_equal(loaded[key], value)
    elif isinstance(saved, np.ndarray):
        assert (loaded.dtype, loaded.shape) == (saved.dtype, saved.shape)
        np.testing.assert_array_equal(loaded, saved, strict=True)
    else:
        assert type(loaded) is type(saved) and loaded == saved


def assert_rows(segments: Iterator[tuple[int, dict[str, NDArray]]], saved: Stream) -> None:
    row = saved.first
    for first, arrays in segments:
        assert first == row
        row += len(arrays["reward"])
        for name, array in rows(first, row).items():
            np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert row == saved.last


def assert_is_step(loaded: tuple[int, LoadedState] | None, step: int) -> None:
    assert loaded is not None and loaded[0] == step
    assert_equal(loaded[1], state(step))


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
