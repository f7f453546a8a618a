"""The numbers of a race: what came out, and what the workers exchanged to get there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import final

from qfleet.runs.formatting import short_number
from qfleet.runs.race_finding import error_text, is_number, percent, ratio, return_text, seconds_text
from qfleet.runs.race_record import RaceRecord, SchemeRecord


@final
@dataclass(frozen=True)
class _Column:
    """One quantity of every scheme."""

    name: str
    """Its heading."""
    show: Callable[[SchemeRecord], str]
    """The cell's text."""
    better: Callable[[SchemeRecord], float | None] | None = None
    """What is least in the cell to be set in bold; None: none is."""


def _plain(value: float | None) -> str:
    return f"{value:.3g}" if value is not None and is_number(value) else "–"


def _short(value: float | None) -> str:
    return short_number(value) if value is not None and is_number(value) else "–"


_OUTCOME = (
    _Column("workers", lambda scheme: str(scheme.workers)),
    _Column("steps", lambda scheme: short_number(scheme.steps)),
    _Column("time", lambda scheme: seconds_text(scheme.seconds), lambda scheme: scheme.seconds),
    _Column(
        "steps/s", lambda scheme: _short(scheme.steps_per_second), lambda scheme: -scheme.steps_per_second
    ),
    _Column("speed-up", lambda scheme: ratio(scheme.speed_up), lambda scheme: -scheme.speed_up),
    _Column("efficiency", lambda scheme: percent(scheme.efficiency)),
    _Column(
        "to serial’s\N{NO-BREAK SPACE}error",
        lambda scheme: seconds_text(scheme.seconds_to_error),
        lambda scheme: scheme.seconds_to_error,
    ),
    _Column("final error", lambda scheme: error_text(scheme.max_error), lambda scheme: scheme.max_error),
    _Column("greedy return", lambda scheme: return_text(scheme.mean_return)),
)
_EXCHANGE = (
    _Column("rounds", lambda scheme: _short(scheme.rounds)),
    _Column("staleness, steps", lambda scheme: _short(scheme.staleness_steps)),
    _Column("imbalance, first cut", lambda scheme: _plain(scheme.imbalance_before)),
    _Column("imbalance, last cut", lambda scheme: _plain(scheme.imbalance_after)),
    _Column("lost updates", lambda scheme: percent(scheme.lost_update_fraction)),
    _Column("parked", lambda scheme: percent(scheme.parked_fraction)),
)


def outcome_table(record: RaceRecord, colors: Sequence[int]) -> str:
    """Speed, error and return of every scheme; the best of a column in bold."""
    return _table("Speed, error and greedy return", record.schemes, colors, _OUTCOME)


def exchange_table(record: RaceRecord, colors: Sequence[int]) -> str:
    """What every scheme's workers exchanged, and what it cost them."""
    return _table("What the workers exchanged", record.schemes, colors, _EXCHANGE)


def _table(
    title: str, schemes: Sequence[SchemeRecord], colors: Sequence[int], columns: Sequence[_Column]
) -> str:
    head = "".join(f'<th scope="col" class="number">{escape(column.name)}</th>' for column in columns)
    best = [_best(column, schemes) for column in columns]
    body = "".join(
        f'<tr><th scope="row"><span class="swatch c{color}"></span>{escape(scheme.name)}</th>'
        f"{''.join(_cell(column, scheme, scheme in bold) for column, bold in zip(columns, best, strict=True))}</tr>"
        for scheme, color in zip(schemes, colors, strict=True)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
        f'<thead><tr><th scope="col">scheme</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _best(column: _Column, schemes: Sequence[SchemeRecord]) -> list[SchemeRecord]:
    """Those whose cell shows the best there is; none where all cells are alike."""
    better = column.better
    if better is None:
        return []
    found = [
        (value, scheme) for scheme in schemes if (value := better(scheme)) is not None and is_number(value)
    ]
    if len({column.show(scheme) for _, scheme in found}) < 2:
        return []
    winner = column.show(min(found, key=lambda pair: pair[0])[1])
    return [scheme for _, scheme in found if column.show(scheme) == winner]


def _cell(column: _Column, scheme: SchemeRecord, bold: bool) -> str:
    style = "number best" if bold else "number"
    return f'<td class="{style}">{escape(column.show(scheme))}</td>'
