"""Grids of states as cells that can be drawn, and their colours."""

import base64
import math
import re
import struct
import zlib

import numpy as np
import pytest
from example_race import make_layout
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.runs.heat_map import ValueScale, heat_map, shown_starts, value_scale
from qfleet.runs.policy_map import (
    LEFT_DOWN_RIGHT_UP,
    MAX_SIDE,
    GridLayout,
    PolicyMap,
    block_means,
    policy_map,
)


def of_values(values: list[float | None], rows: int = 1) -> PolicyMap:
    zeros = (0.0,) * len(values)
    return PolicyMap(rows, len(values) // rows, 1, tuple(values), zeros, zeros)


def pixels(svg: str) -> NDArray[np.uint8]:
    """The embedded image's palette numbers."""
    found = re.search(r"base64,([^\"]+)", svg)
    assert found is not None
    data = base64.b64decode(found[1])
    columns, rows = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    body = zlib.decompress(data[start + 4 : start + 4 + length])
    assert struct.unpack(">I", data[start + 4 + length :][:4])[0] == zlib.crc32(
        data[start : start + 4 + length]
    )
    return np.frombuffer(body, np.uint8).reshape(rows, columns + 1)[:, 1:]


def test_a_small_grid_is_mapped_state_by_state() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4])
    layout = GridLayout((2, 2), walls=np.array([False, True, False, False]), terminal=np.arange(4) == 3)
    found = policy_map(values, np.array([1, 0, 3, 0]), layout)
    assert (found.rows, found.columns, found.block) == (2, 2, 1)
    assert found.values == (0.1, None, 0.3, None)
    assert (found.across[0], found.down[0]) == (0, 1) and (found.across[2], found.down[2]) == (1, 0)
    assert found.walls == (1,) and found.terminal == (3,) and found.start == ()


def test_directions_are_those_of_the_environment() -> None:
    layout = GridLayout((1, 4), directions=LEFT_DOWN_RIGHT_UP)
    found = policy_map(np.zeros(4), np.arange(4), layout)
    assert found.across == (-1, 0, 1, 0) and found.down == (0, 1, 0, -1)


def test_large_grids_become_means_of_blocks() -> None:
    rows, columns = 300, 200
    values = np.random.default_rng(0).random(rows * columns)
    layout = GridLayout((rows, columns), start=np.arange(rows * columns) == 7)
    found = policy_map(values, np.full(rows * columns, 3), layout)
    assert found.block == 3 and (found.rows, found.columns) == (100, 67)
    assert max(found.rows, found.columns) <= MAX_SIDE
    assert found.values[0] == pytest.approx(values.reshape(rows, columns)[:3, :3].mean())
    last = values.reshape(rows, columns)[297:, 198:]  # Only two columns are left of the last cell.
    assert found.values[-1] == pytest.approx(last.mean())
    assert found.start == (2,) and set(found.across) == {1.0}


def test_means_leave_out_what_does_not_count() -> None:
    values, counted = np.array([[1.0, 3.0, 5.0]]), np.array([[True, False, False]])
    np.testing.assert_array_equal(block_means(values, counted, 2), [[1.0, np.nan]])


def test_what_does_not_fit_the_grid_is_said() -> None:
    with pytest.raises(QfleetError, match=r"state values of shape \(3,\) for a 2×2 grid"):
        policy_map(np.zeros(3), np.zeros(4, int), GridLayout((2, 2)))
    with pytest.raises(QfleetError, match="greedy action 4 of a grid with 4 directions"):
        policy_map(np.zeros(4), np.full(4, 4), GridLayout((2, 2)))
    with pytest.raises(QfleetError, match="walls of 3 states for a 2×2 grid"):
        policy_map(np.zeros(4), np.zeros(4, int), GridLayout((2, 2), walls=np.zeros(3, bool)))


def test_the_scale_is_logarithmic_where_most_would_be_dark() -> None:
    near = value_scale([of_values([0.5, 0.9, None]), of_values([0.2])])
    assert near == ValueScale(0.2, 0.9, False)
    far = value_scale([of_values([0.99**step for step in range(0, 2000, 10)])])
    assert far.logarithmic and far.high == 1.0 and far.low == pytest.approx(1e-6)
    assert far.share(np.array([1e-3]))[0] == pytest.approx(0.5) and far.value(0.5) == pytest.approx(1e-3)
    assert not value_scale([of_values([-5.0, -0.001, -0.001])]).logarithmic


@pytest.mark.parametrize("values", [[None], [2.0, 2.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 0.0, 1.0]])
def test_scales_of_little(values: list[float | None]) -> None:
    scale = value_scale([of_values(values)])
    assert scale.low < scale.high
    assert "nan" not in heat_map("serial", of_values(values), scale).lower().split("base64")[0]


def test_colours_are_the_values() -> None:
    drawn = of_values([0.0, 1.0, None, 0.5])
    found = pixels(heat_map("serial", drawn, ValueScale(0.0, 1.0, False)))
    assert found.tolist() == [[1, 254, 0, 127]]  # 0 is transparent: the ground shows


def test_arrows_point_where_the_actions_lead() -> None:
    directions = policy_map(np.ones(4), np.arange(4), GridLayout((1, 4)))
    svg = heat_map("serial", directions, ValueScale(0.0, 1.0, False))
    found = re.search(r'<path class="arrows dark-ink" d="([^"]+)"', svg)
    assert found is not None
    tips = [tuple(map(int, tip)) for tip in re.findall(r"M(-?\d+) (-?\d+)", found[1])]
    offsets = [(x - 40 * column - 20, y - 16) for column, (x, y) in enumerate(tips)]
    assert [(np.sign(x) * (abs(x) > 5), np.sign(y) * (abs(y) > 5)) for x, y in offsets] == [
        *((0, -1), (0, 1), (-1, 0), (1, 0))  # up, down, left, right
    ]
    assert "25% right, 25% left, 25% down, 25% up" in svg


def test_opposite_directions_have_no_arrow() -> None:
    blocks = PolicyMap(1, 1, 2, (1.0,), (0.0,), (0.0,))
    assert 'd="M18 14h4v4h-4z"' in heat_map("serial", blocks, ValueScale(0.0, 2.0, False))  # a square


def test_starts_nearly_anywhere_are_not_marked() -> None:
    layout = make_layout(8, 8)
    some = policy_map(np.ones(64), np.zeros(64, int), layout)
    anywhere = policy_map(np.ones(64), np.zeros(64, int), GridLayout((8, 8), start=np.ones(64, bool)))
    assert shown_starts(some) == (0,) and shown_starts(anywhere) == ()
