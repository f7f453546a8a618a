"""A greedy policy as arrows on a heat map: SVG text with the colours as a small embedded image."""

import base64
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.runs.formatting import short_number, three_digits
from qfleet.runs.policy_map import PolicyMap, block_means

_ANCHORS = ("#482475", "#3f4788", "#31668e", "#25848e", "#20a386", "#42be71", "#86d549", "#cae11f", "#fde725")
"""Viridis: even in lightness for every kind of colour vision; its darkest end is left out, it is the walls'."""
_LEVELS = 254
_CELL = 40.0
"""Units of drawing a side of a cell: fine enough for whole numbers to do."""
_FINE_ARROWS, _COARSE_ARROWS = 64, 16
"""Arrows a side that can be told apart on a wide and on a narrow screen."""
_MOST_NUMBERED = 10
_LIGHTEST_DARK = 0.4
"""Share of the scale below which a cell is too dark for dark ink."""
_LOG_SHARE = 0.02
_DECADES = 6
_NO_DIRECTION = 0.2
_ARROW = ((0.5, 0), (0.06, 0.32), (0.06, 0.085), (-0.5, 0.085), (-0.5, -0.085), (0.06, -0.085), (0.06, -0.32))
"""Its corners along and beside where it points, for a length of one."""


@final
@dataclass(frozen=True)
class ValueScale:
    """From values to colours, the same for all maps of a page."""

    low: float
    """Where the darkest colour is."""
    high: float
    """Where the lightest is."""
    logarithmic: bool
    """Equal ratios are equal steps of colour."""

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where on the scale, in [0, 1]; NaN stays NaN."""
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log(np.maximum(values, low)), math.log(low), math.log(high)
        return np.clip((values - low) / (high - low), 0.0, 1.0)

    def value(self, share: float) -> float:
        """The value at a place in [0, 1]."""
        if self.logarithmic:
            return math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        return self.low * (1 - share) + self.high * share


def value_scale(maps: Sequence[PolicyMap]) -> ValueScale:
    """A scale that holds all maps' finite values; logarithmic where most would be dark otherwise."""
    values = np.concatenate([_cells(drawn.values) for drawn in maps])
    values = values[np.isfinite(values)]
    if not values.size:
        return ValueScale(0.0, 1.0, False)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high > 0 and float(np.median(values)) < _LOG_SHARE * high:
        return ValueScale(max(float(values[values > 0].min()) / 2, high * 10.0**-_DECADES), high, True)
    return ValueScale(low, high if high > low else low + 1.0, False)


def color_bar() -> str:
    """The colours from low to high, as CSS."""
    return f"linear-gradient(to right, {', '.join(_ANCHORS)})"


def heat_map(name: str, drawn: PolicyMap, scale: ValueScale) -> str:
    """An SVG element: colours are max_a Q, arrows the greedy actions; `name` says whose.

    Arrows of neighbouring cells are joined to their mean where single ones could not be told apart.
    """
    width, height = drawn.columns * _CELL, drawn.rows * _CELL
    shares = scale.share(_cells(drawn.values).reshape(drawn.rows, drawn.columns))
    body = [f'<rect class="wall" width="{width:g}" height="{height:g}"/>', _hatching(width, height)]
    body += [
        *_ended_cells(drawn),
        _image(shares, drawn, width, height),
        *_arrow_layers(drawn, shares),
        *_marks(drawn),
    ]
    if _numbered(drawn):
        body += _numbers(drawn, shares)
    return (
        f'<svg class="map" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="max-width:{map_width(drawn)}px" aria-label="{escape(_spoken(name, drawn))}">'
        f"{''.join(body)}</svg>"
    )


def map_width(drawn: PolicyMap) -> int:
    """Pixels across on a wide screen: large enough for its arrows, and never higher than a screen."""
    side = max(drawn.rows, drawn.columns)
    return round(min(700.0 / side, 110.0) * drawn.columns)


def arrow_cells(drawn: PolicyMap) -> tuple[int, int]:
    """Cells a side that one arrow stands for on wide and on narrow screens."""
    side = max(drawn.rows, drawn.columns)
    return -(-side // _FINE_ARROWS), -(-side // _COARSE_ARROWS)


def shown_starts(drawn: PolicyMap) -> tuple[int, ...]:
    """Where episodes may start; none where that is nearly anywhere."""
    return drawn.start if 4 * len(drawn.start) <= len(drawn.values) else ()


def _numbered(drawn: PolicyMap) -> bool:
    return max(drawn.rows, drawn.columns) <= _MOST_NUMBERED


def _cells(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _spoken(name: str, drawn: PolicyMap) -> str:
    """The map in words."""
    values = _cells(drawn.values)
    finite = values[np.isfinite(values)]
    across, down = np.asarray(drawn.across)[np.isfinite(values)], np.asarray(drawn.down)[np.isfinite(values)]
    if not finite.size:
        return f"Greedy policy of {name}: no state with a value"
    horizontal = np.abs(across) > np.abs(down)
    shares = {
        "right": horizontal & (across > 0),
        "left": horizontal & (across < 0),
        "down": ~horizontal & (down > 0),
        "up": ~horizontal & (down < 0),
    }
    said = ", ".join(f"{np.mean(found):.0%} {word}" for word, found in shares.items())
    low, high = short_number(float(finite.min())), short_number(float(finite.max()))
    return f"Greedy policy of {name}: max over actions of Q from {low} to {high}; arrows point {said}"


def _hatching(width: float, height: float) -> str:
    """Diagonals under everything: seen where the image is transparent, which is where walls are."""
    gap = max(width, height) / 90
    starts = np.arange(-height, width, gap)
    lines = "".join(f"M{start:.1f} {height:g}l{height:g}-{height:g}" for start in starts)
    return f'<path class="hatch" stroke-width="{gap / 4:.1f}" d="{lines}"/>'


def _image(shares: NDArray[np.float64], drawn: PolicyMap, width: float, height: float) -> str:
    """Colour 0 is transparent: no value; the others are the scale."""
    shown = 1 + np.nan_to_num(shares) * (_LEVELS - 1)
    colors = np.where(np.isfinite(shares), shown, 0).astype(np.uint8)
    data = base64.b64encode(_png(colors)).decode()
    return (
        f'<image width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/>'
    )


def _png(colors: NDArray[np.uint8]) -> bytes:
    """An image with a palette (PNG specification, colour type 3)."""
    rows, columns = colors.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # Each line begins with its filter: none.
    lines[:, 1:] = colors
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", _palette().tobytes()),
        (b"tRNS", bytes(1)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _palette() -> NDArray[np.uint8]:
    anchors = np.array([[int(color[place : place + 2], 16) for place in (1, 3, 5)] for color in _ANCHORS])
    places = np.linspace(0, len(_ANCHORS) - 1, _LEVELS)
    colors = [np.interp(places, np.arange(len(_ANCHORS)), anchors[:, channel]) for channel in range(3)]
    return np.vstack([np.zeros((1, 3)), np.stack(colors, axis=1)]).round().astype(np.uint8)


def _arrow_layers(drawn: PolicyMap, shares: NDArray[np.float64]) -> Iterator[str]:
    """One layer for wide screens, one for narrow ones, or one for both."""
    fine, coarse = arrow_cells(drawn)
    if fine == coarse:
        yield from _arrows(drawn, shares, fine, "arrows")
        return
    yield from _arrows(drawn, shares, fine, "arrows fine")
    yield from _arrows(drawn, shares, coarse, "arrows coarse")


def _arrows(drawn: PolicyMap, shares: NDArray[np.float64], block: int, style: str) -> Iterator[str]:
    """A path of dark arrows, and one of light ones for dark cells."""
    shape, free = shares.shape, np.isfinite(shares)
    across = block_means(np.asarray(drawn.across).reshape(shape), free, block)
    down = block_means(np.asarray(drawn.down).reshape(shape), free, block)
    shade = block_means(shares, free, block)
    numbered = _numbered(drawn)
    for ink, chosen in (("light-ink", shade < _LIGHTEST_DARK), ("dark-ink", shade >= _LIGHTEST_DARK)):
        path = "".join(
            _arrow(
                ((column + 0.5) * block * _CELL, ((row + 0.5) * block - 0.1 * numbered) * _CELL),
                (float(across[row, column]), float(down[row, column])),
                block * _CELL * (0.62 if numbered else 0.8),
            )
            for row, column in np.argwhere(chosen).tolist()
        )
        if path:
            yield f'<path class="{style} {ink}" d="{path}"/>'


def _arrow(center: tuple[float, float], vector: tuple[float, float], size: float) -> str:
    """The outline of an arrow; shorter the less the joined states agree, a square where they do not at all."""
    strength = math.hypot(*vector)
    if strength < _NO_DIRECTION:
        return _outline(((-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)), center, (size, 0.0))
    length = size * (0.4 + 0.6 * min(strength, 1.0)) / strength
    return _outline(_ARROW, center, (vector[0] * length, vector[1] * length))


def _outline(
    corners: Sequence[tuple[float, float]], center: tuple[float, float], axis: tuple[float, float]
) -> str:
    """A closed path through the corners, given along and beside `axis`; in whole units, as steps: short text."""
    places = [
        (
            round(center[0] + along * axis[0] - beside * axis[1]),
            round(center[1] + along * axis[1] + beside * axis[0]),
        )
        for along, beside in corners
    ]
    steps = "".join(_step(x - before_x, y - before_y) for (before_x, before_y), (x, y) in pairwise(places))
    return f"M{places[0][0]} {places[0][1]}{steps}z"


def _step(across: int, down: int) -> str:
    if down == 0:
        return f"h{across}"
    return f"v{down}" if across == 0 else f"l{across} {down}"


def _ended_cells(drawn: PolicyMap) -> Iterator[str]:
    """Plain ground for the cells without a value because nothing happens there any more."""
    for cell in drawn.terminal:
        x, y = _center(cell, drawn)
        side = f'width="{_CELL:g}" height="{_CELL:g}"'
        yield f'<rect class="ground" x="{x - _CELL / 2:g}" y="{y - _CELL / 2:g}" {side}/>'


def _marks(drawn: PolicyMap) -> Iterator[str]:
    """A square where episodes end, a ring where they start."""
    size = max(_CELL, max(drawn.rows, drawn.columns) * _CELL / 40)
    for cell in drawn.terminal:
        x, y = _center(cell, drawn)
        corner = f'x="{x - 0.2 * size:.1f}" y="{y - 0.2 * size:.1f}"'
        side = f'width="{0.4 * size:.1f}" height="{0.4 * size:.1f}"'
        yield f'<rect class="end" {corner} {side}><title>ends the episode</title></rect>'
    for cell in shown_starts(drawn):
        x, y = _center(cell, drawn)
        # Beside the arrow where there is room, around it where there is none.
        offset, radius = (0.38 * size, 0.07 * size) if _numbered(drawn) else (0.0, 0.46 * size)
        ring = f'cx="{x - offset:.1f}" cy="{y - offset:.1f}" r="{radius:.1f}"'
        width = 0.03 * size if _numbered(drawn) else 0.07 * size
        yield f'<circle class="start" {ring} stroke-width="{width:.2f}"><title>start</title></circle>'


def _center(cell: int, drawn: PolicyMap) -> tuple[float, float]:
    row, column = divmod(cell, drawn.columns)
    return (column + 0.5) * _CELL, (row + 0.5) * _CELL


def _numbers(drawn: PolicyMap, shares: NDArray[np.float64]) -> Iterator[str]:
    """Every cell's value under its arrow."""
    size = f'style="font-size:{0.15 * _CELL:g}px"'
    for cell, (value, share) in enumerate(zip(drawn.values, shares.flat, strict=True)):
        if value is not None and math.isfinite(value):
            x, y = _center(cell, drawn)
            ink = "light-ink" if share < _LIGHTEST_DARK else "dark-ink"
            place = f'x="{x:g}" y="{y + 0.41 * _CELL:.1f}"'
            yield f'<text class="{ink}" {place} {size}>{three_digits(value)}</text>'
