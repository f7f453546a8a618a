"""Axes in powers of ten, and names at the ends of lines."""

import math
import re
from itertools import pairwise

import pytest

from qfleet.runs.charts import Series, line_chart
from qfleet.runs.formatting import log_tick_labels, log_ticks, three_digits


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.005, 2.0, ["0.01", "0.1", "1"]),
        (1e-7, 2.0, ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"]),
        (0.9, 6.0, ["1", "2", "5"]),
        (2.5e-5, 6.5e-5, ["3·10⁻⁵", "4·10⁻⁵", "5·10⁻⁵", "6·10⁻⁵"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, expected: list[str]) -> None:
    assert log_tick_labels(log_ticks(low, high, most=8)) == expected


@pytest.mark.parametrize("decades", [0.001, 0.1, 1, 5, 40, 300])
def test_ticks_are_few_but_some_and_within(decades: float) -> None:
    low, high = 1e-200, 10 ** (-200 + decades)
    ticks = log_ticks(low, high, most=8)
    assert 2 <= len(ticks) <= 10
    assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in ticks)


def heights(svg: str) -> list[float]:
    line = re.search(r'<path class="line c0" d="M([^"]+)"', svg)
    assert line is not None
    return [float(place.split()[1]) for place in line[1].split("L")]


def test_equal_ratios_are_equal_distances() -> None:
    found = heights(line_chart("t", "x", [Series("a", [0, 1, 2], [1.0, 0.1, 0.01], 0)], log_y=True))
    assert found[1] - found[0] == pytest.approx(found[2] - found[1], abs=0.2)


def test_zero_lies_on_the_lower_edge_but_says_zero() -> None:
    svg = line_chart("t", "x", [Series("a", [0, 1, 2], [1.0, 0.1, 0.0], 0)], height=230, log_y=True)
    assert heights(svg)[2] == 230 - 42 and "a: 0 at 2 x" in svg
    nothing = line_chart("t", "x", [Series("a", [0, 1], [0.0, 0.0], 0)], log_y=True)
    assert "nan" not in nothing and len(heights(nothing)) == 2


@pytest.mark.parametrize(
    "values", [[0.5] * 6, [0.01, 0.011, 0.012, 1.0, 0.5, 0.0101], [math.nan, 1, 1, 1, 1, 1]]
)
def test_names_at_the_ends_do_not_lie_upon_one_another(values: list[float]) -> None:
    lines = [Series(f"line {index}", [0.0, 1.0], [1.0, value], index) for index, value in enumerate(values)]
    svg = line_chart("t", "x", lines, width=540, height=340, log_y=True, end_labels=True)
    found = sorted(float(y) for y in re.findall(r'class="end-label[^>]* y="([\d.]+)"', svg))
    assert len(found) == 6 and min(b - a for a, b in pairwise(found)) >= 14.9
    assert found[0] >= 12 and found[-1] <= 340 - 42


def test_three_digits_keep_their_zeros() -> None:
    assert [three_digits(number) for number in (1, 12.3, 123, 12345, 0.98)] == [
        "1.00",
        "12.3",
        "123",
        "12345",
        "0.980",
    ]
