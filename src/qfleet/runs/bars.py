"""Horizontal bars as HTML text: they and their words fit any width."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import final


@final
@dataclass(frozen=True)
class Bar:
    """One bar."""

    name: str
    """What it is of."""
    amount: float | None
    """How long it is, at least 0; None: there is nothing to draw, and `shown` says so."""
    shown: str
    """The amount in words."""
    color: int
    """Which colour of the palette, from 0."""


def bar_chart(title: str, bars: Sequence[Bar], mark: float | None = None) -> str:
    """A list of bars from zero on one scale; a dashed line at `mark`, where it is given."""
    longest = max([bar.amount for bar in bars if bar.amount is not None] + [mark or 0.0], default=0.0) or 1.0
    rows = "".join(_row(bar, longest, mark) for bar in bars)
    return f'<ul class="bar-chart" aria-label="{escape(title)}">{rows}</ul>'


def _row(bar: Bar, longest: float, mark: float | None) -> str:
    share = 0.0 if bar.amount is None else 100 * bar.amount / longest
    line = "" if mark is None else f'<span class="mark" style="left:{100 * mark / longest:.2f}%"></span>'
    return (
        f'<li><span>{escape(bar.name)}</span><span class="track c{bar.color}">'
        f'<span class="fill" style="width:{share:.2f}%"></span>{line}</span>'
        f'<span class="amount">{escape(bar.shown)}</span></li>'
    )
