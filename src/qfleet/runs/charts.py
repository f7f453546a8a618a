"""Line charts as SVG text; colours come from the page's style sheet, so that dark and light both work."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from qfleet.runs.formatting import log_tick_labels, log_ticks, nice_ticks, short_number, tick_labels

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 42
_LABEL_MARGIN, _LABEL_HEIGHT = 124, 15
_MAX_HOVER_POINTS = 150
_MARKED_POINTS = 40


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    """What the tooltip calls it."""
    xs: Sequence[float]
    """(points,), increasing."""
    ys: Sequence[float]
    """(points,); the line breaks where one is not finite."""
    color: int
    """Which colour of the palette, from 0."""
    dashed: bool = False
    """Dashed rather than solid."""
    low: Sequence[float] | None = None
    """(points,): lower edge of a band around the line; None for no band."""
    high: Sequence[float] | None = None
    """(points,): its upper edge."""


@dataclass(frozen=True)
class _Plane:
    """Where data lie on the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int
    height: int
    right: int = _RIGHT
    log_y: bool = False

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        if self.log_y:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)


def line_chart(
    title: str,
    x_label: str,
    series: Sequence[Series],
    width: int = 360,
    height: int = 230,
    log_y: bool = False,
    end_labels: bool = False,
) -> str:
    """An SVG element with axes, bands, lines and tooltips; says so where there is no point to draw.

    An axis starts at zero unless that would leave most of it empty. With `log_y`, what is not above zero
    lies on the lower edge. With `end_labels`, every line's name stands at its end.
    """
    style = ' class="labelled"' if end_labels else ""
    head = f'<svg viewBox="0 0 {width} {height}"{style} role="img" aria-label="{escape(title)}">'
    xs = [x for line in series for x, _ in _points(line)]
    ys = [y for line in series for y in (*line.ys, *(line.low or ()), *(line.high or ())) if math.isfinite(y)]
    if not xs:
        return f'{head}<text class="empty" x="{width / 2}" y="{height / 2}">nothing recorded</text></svg>'
    y_range = _log_range(ys) if log_y else _range(ys, 0.06)
    right = _LABEL_MARGIN if end_labels else _RIGHT
    plane = _Plane(_range(xs, 0.0), y_range, width, height, right, log_y)
    body = [*_axes(plane, x_label), *(_band(line, plane) for line in series)]
    body += [part for line in series for part in _line(line, plane)]
    body += [part for line in series for part in _hover(line, plane, x_label)]
    body += _end_labels(series, plane) if end_labels else []
    return head + "".join(body) + "</svg>"


def _points(line: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]


def _range(values: Sequence[float], margin_share: float) -> tuple[float, float]:
    """What an axis spans: never empty, and below zero only where the values are."""
    low, high = min(values), max(values)
    if 0 <= low <= 0.75 * high or low == high == 0:
        return 0.0, high + margin_share * high or 1.0
    margin = margin_share * (high - low) if high - low > 1e-9 * abs(high) else 0.1 * abs(high)
    return low - margin, high + margin


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    """The same for a logarithmic axis; values that are not above zero have no say."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    margin = max(0.04 * math.log10(high / low), 0.05)
    return low * 10**-margin, high * 10**margin


def _y_ticks(plane: _Plane) -> Iterator[tuple[float, str]]:
    most = min(8, plane.height // 32)
    if plane.log_y:
        ticks = log_ticks(*plane.y_range, most=most)
        return zip(ticks, log_tick_labels(ticks), strict=True)
    ticks = nice_ticks(*plane.y_range, most=most)
    return zip(ticks, tick_labels(ticks), strict=True)


def _axes(plane: _Plane, x_label: str) -> Iterator[str]:
    bottom, right = plane.height - _BOTTOM, plane.width - plane.right
    for tick, label in _y_ticks(plane):
        y = plane.y(tick)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    ticks = nice_ticks(*plane.x_range, most=min(11, plane.width // 60))
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        x = plane.x(tick)
        # A label at the right edge must not be cut off.
        anchor = "end" if x > right - 12 else "middle"
        x_text = right + _RIGHT - 2 if anchor == "end" else x
        yield f'<path class="axis" d="M{x:.1f} {bottom}v4"/>'
        yield f'<text class="tick" x="{x_text:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{label}</text>'
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>'
    place = f'x="{(_LEFT + right) / 2}" y="{plane.height - 5}"'
    yield f'<text {place} text-anchor="middle">{escape(x_label)}</text>'


def _band(line: Series, plane: _Plane) -> str:
    if line.low is None or line.high is None:
        return ""
    edges = [
        (x, low, high)
        for x, low, high in zip(line.xs, line.low, line.high, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if len(edges) < 2:
        return ""
    outline = [(x, high) for x, _, high in edges] + [(x, low) for x, low, _ in reversed(edges)]
    corners = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in outline)
    return f'<polygon class="band c{line.color}" points="{corners}"/>'


def _line(line: Series, plane: _Plane) -> Iterator[str]:
    style = f"c{line.color}{' dashed' if line.dashed else ''}"
    for finite, run in groupby(zip(line.xs, line.ys, strict=True), key=lambda point: math.isfinite(point[1])):
        places = [(plane.x(x), plane.y(y)) for x, y in run] if finite else []
        if len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            yield f'<path class="line {style}" d="M{path}"/>'
        # A point on its own has no line to be seen by.
        if len(places) == 1 or (line.dashed and len(places) <= _MARKED_POINTS):
            yield from (f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)


def _hover(line: Series, plane: _Plane, x_label: str) -> Iterator[str]:
    """Circles that show themselves, and a tooltip, under the pointer."""
    points = _points(line)
    stride = -(-len(points) // _MAX_HOVER_POINTS) or 1
    for x, y in points[::-1][::stride][::-1]:
        text = f"{line.name}: {y:.5g} at {short_number(x)} {x_label}"
        place = f'cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="5"'
        yield f'<circle class="hover c{line.color}" {place}><title>{escape(text)}</title></circle>'


def _end_labels(series: Sequence[Series], plane: _Plane) -> Iterator[str]:
    """The lines' names at their ends, moved apart where they would lie upon one another."""
    ends = [(line, _points(line)[-1]) for line in series if _points(line)]
    heights = _moved_apart([plane.y(y) for _, (_, y) in ends], _TOP, plane.height - _BOTTOM - 8)
    for (line, (x, _)), height in zip(ends, heights, strict=True):
        place = f'x="{plane.x(x) + 7:.1f}" y="{height + 4:.1f}"'
        yield f'<text class="end-label c{line.color}" {place}>{escape(line.name)}</text>'


def _moved_apart(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """The heights, in their order, a line of text apart and above `bottom`; little moved where there is room."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    free_from = top
    for index in order:
        placed[index] = max(placed[index], free_from)
        free_from = placed[index] + _LABEL_HEIGHT
    free_to = bottom
    for index in reversed(order):
        placed[index] = min(placed[index], free_to)
        free_to = placed[index] - _LABEL_HEIGHT
    return placed
