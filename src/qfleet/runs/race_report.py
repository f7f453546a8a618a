"""One HTML file that shows how a race went: errors, speed-ups, what was exchanged, and the learned policies."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from qfleet.errors import QfleetError
from qfleet.runs.bars import Bar, bar_chart
from qfleet.runs.charts import Series, line_chart
from qfleet.runs.formatting import short_number
from qfleet.runs.heat_map import (
    ValueScale,
    arrow_cells,
    color_bar,
    heat_map,
    map_width,
    shown_starts,
    value_scale,
)
from qfleet.runs.page import legend_entry, page, style_sheet, write_page
from qfleet.runs.policy_map import PolicyMap
from qfleet.runs.race_finding import (
    error_text,
    finding,
    is_number,
    percent,
    ratio,
    return_text,
    seconds_text,
    tiles,
)
from qfleet.runs.race_record import RaceRecord, SchemeRecord
from qfleet.runs.race_tables import exchange_table, outcome_table

_PALETTE = (6, 1, 0, 3, 2, 4, 5, 7)
"""Serial is grey: it is what the others are compared with. Neighbours differ in lightness too."""
_MOST_POINTS = 400


def write_race_report(record: RaceRecord, path: Path) -> None:
    """Writes one self-contained HTML page about the race to `path`.

    Raises QfleetError if nothing was raced, or `path` cannot be written.
    """
    if not record.schemes:
        raise QfleetError("a report of a race without schemes: race at least one")
    write_page(_page(record), path)


def _page(record: RaceRecord) -> str:
    title = f"Race on {record.world}"
    style = style_sheet("report.css") + style_sheet("race_report.css") + _choice_style(record)
    body = (
        f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(_subtitle(record))}</p>'
        f'<p class="finding">{escape(finding(record))}</p></header>{tiles(record)}'
        f"{_errors(record)}{_bars(record)}{_tables(record)}{_policies(record)}"
        "<footer>Written by Qfleet.</footer>"
    )
    return page(title, style, body)


def _subtitle(record: RaceRecord) -> str:
    parts = [f"{record.num_states:,} states × {record.num_actions} actions"]
    if record.grid_shape is not None:
        parts.append(f"{record.grid_shape[0]} × {record.grid_shape[1]} grid")
    workers = "1 worker" if record.workers == 1 else f"{record.workers} workers"
    parts += [f"discount {record.discount:g}", f"{workers} on {record.backend}", f"seed {record.seed}"]
    if not record.is_complete:
        parts.append("interrupted: unfinished schemes are left out")
    return " · ".join(parts)


def _color(index: int) -> int:
    return _PALETTE[index % len(_PALETTE)]


def _colors(record: RaceRecord) -> list[int]:
    return [_color(index) for index in range(len(record.schemes))]


def _errors(record: RaceRecord) -> str:
    """Error over steps beside error over seconds."""
    if not any(scheme.curve for scheme in record.schemes):
        return (
            '<section class="card"><h2>Error to the exact optimum</h2><p class="explained">'
            "The exact solution of this world is not known, so no error was measured.</p></section>"
        )
    legend = "".join(
        legend_entry(_color(index), False, scheme.name) for index, scheme in enumerate(record.schemes)
    )
    over_steps = _error_card(record, "steps", lambda point: float(point[0]))
    scale, unit = _time_unit(record)
    over_seconds = _error_card(record, unit, lambda point: point[1] / scale)
    return (
        f'<section><div class="bar"><div class="legend">{legend}</div></div>'
        f'<div class="pair">{over_steps}{over_seconds}</div></section>'
    )


def _time_unit(record: RaceRecord) -> tuple[float, str]:
    """Seconds in one unit of the axis, and the unit's name."""
    longest = max((point[1] for scheme in record.schemes for point in scheme.curve), default=0.0)
    if longest >= 180:
        return 60.0, "minutes"
    return (1.0, "seconds") if longest >= 0.1 else (1e-3, "milliseconds")


def _error_card(record: RaceRecord, x_name: str, x: Callable[[tuple[int, float, float]], float]) -> str:
    series = []
    for index, scheme in enumerate(record.schemes):
        stride = -(-len(scheme.curve) // _MOST_POINTS) or 1
        points = scheme.curve[::-1][::stride][::-1]  # The last point is always shown.
        series.append(Series(scheme.name, [x(p) for p in points], [p[2] for p in points], _color(index)))
    ends = ", ".join(f"{scheme.name} {error_text(scheme.max_error)}" for scheme in record.schemes)
    spoken = f"Error to the exact optimum over {x_name}, logarithmic. At the end: {ends}."
    chart = line_chart(spoken, x_name, series, width=540, height=340, log_y=True, end_labels=True)
    return (
        f'<div class="card"><h2>Error over {x_name} <span class="unit">max |Q − Q*|, log scale</span></h2>'
        f"{chart}</div>"
    )


def _bars(record: RaceRecord) -> str:
    """Speed-up, efficiency, and the time that counts."""
    ideal = float(record.workers)
    speed_ups = _bar_list(record, lambda scheme: scheme.speed_up, ratio)
    efficiencies = _bar_list(record, lambda scheme: scheme.efficiency, percent)
    cards = [
        _bar_card("Speed-up", "dashed: ideal", bar_chart("Speed-up", speed_ups, ideal)),
        _bar_card("Efficiency", "speed-up per worker", bar_chart("Efficiency", efficiencies, 1.0)),
    ]
    if record.serial is not None and is_number(record.serial.max_error):
        times = _bar_list(record, lambda scheme: scheme.seconds_to_error, seconds_text, "never")
        title, unit = "Time to serial’s final error", error_text(record.serial.max_error)
        cards.append(_bar_card(title, unit, bar_chart(title, times)))
    return f'<section class="{"three" if len(cards) == 3 else "pair"}">{"".join(cards)}</section>'


def _bar_list(
    record: RaceRecord,
    quantity: Callable[[SchemeRecord], float | None],
    show: Callable[[float], str],
    missing: str = "–",
) -> list[Bar]:
    bars = []
    for index, scheme in enumerate(record.schemes):
        value = quantity(scheme)
        if value is None or not is_number(value):
            bars.append(Bar(scheme.name, None, missing, _color(index)))
        else:
            bars.append(Bar(scheme.name, max(0.0, value), show(value), _color(index)))
    return bars


def _bar_card(title: str, unit: str, bars: str) -> str:
    return f'<div class="card"><h2>{escape(title)} <span class="unit">{escape(unit)}</span></h2>{bars}</div>'


def _tables(record: RaceRecord) -> str:
    colors = _colors(record)
    return (
        f'<section class="card"><h2>Results</h2>{outcome_table(record, colors)}</section>'
        '<section class="card"><h2>What the workers exchanged</h2><p class="explained">'
        "Staleness: steps that others make between two exchanges. Imbalance: the busiest worker’s updates over the "
        "mean, 1 is even; first and last cut of the states. Lost updates: those that another worker’s write undid "
        "(estimated). Parked: walkers that wait across a border when a round ends. –: does not apply.</p>"
        f"{exchange_table(record, colors)}</section>"
    )


def _choice_style(record: RaceRecord) -> str:
    """Which radio button shows which map: the style sheet's part of the choice."""
    rules = []
    for index in range(len(record.schemes)):
        rules.append(f"#map-{index}:checked ~ .views .view-{index} {{ display: grid; }}")
        rules.append(
            f'#map-{index}:checked ~ .chooser label[for="map-{index}"] '
            "{ background: var(--c0); border-color: var(--c0); color: var(--card); }"
        )
        rules.append(
            f'#map-{index}:focus-visible ~ .chooser label[for="map-{index}"] '
            "{ outline: 2px solid var(--c0); outline-offset: 2px; }"
        )
    return "\n".join(rules)


def _policies(record: RaceRecord) -> str:
    """One map at a time; a radio button a scheme."""
    found = [(index, scheme, scheme.policy) for index, scheme in enumerate(record.schemes) if scheme.policy]
    if not found:
        return ""
    scale = value_scale([policy for _, _, policy in found])
    buttons = "".join(
        f'<input class="choice" type="radio" name="map" id="map-{index}"{_checked(number == len(found) - 1)}/>'
        for number, (index, _, _) in enumerate(found)
    )
    labels = "".join(f'<label for="map-{index}">{escape(scheme.name)}</label>' for index, scheme, _ in found)
    views = "".join(_view(index, scheme, policy, scale) for index, scheme, policy in found)
    return (
        '<section class="card"><h2>Learned greedy policy <span class="unit">arrows, on a heat map of '
        f'max<sub>a</sub> Q</span></h2>{buttons}<div class="chooser">{labels}</div>'
        f'<div class="views">{views}</div></section>'
    )


def _checked(chosen: bool) -> str:
    return ' checked="checked"' if chosen else ""


def _view(index: int, scheme: SchemeRecord, policy: PolicyMap, scale: ValueScale) -> str:
    facts = (
        ("final error", error_text(scheme.max_error)),
        ("greedy return", return_text(scheme.mean_return)),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    ticks = "".join(f"<span>{short_number(scale.value(share))}</span>" for share in (0.0, 0.5, 1.0))
    kind = ", log scale" if scale.logarithmic else ""
    return (
        f'<div class="view view-{index}" style="--map:{map_width(policy)}px">'
        f'{heat_map(scheme.name, policy, scale)}<div class="map-key">'
        f"<dl><dt>scheme</dt><dd>{escape(scheme.name)}</dd>{listed}</dl>"
        f'<div>max<sub>a</sub> Q{kind}</div><div class="color-bar" style="background:{color_bar()}"></div>'
        f'<div class="color-ticks">{ticks}</div><ul>{"".join(_key(policy))}</ul></div></div>'
    )


def _key(policy: PolicyMap) -> Sequence[str]:
    """What the signs on the map mean."""
    frame = '<li><svg viewBox="0 0 10 10" aria-hidden="true">'
    entries = []
    if policy.terminal:
        entries.append(
            f'{frame}<rect class="end" x="2.8" y="2.8" width="4.4" height="4.4"/></svg>ends the episode</li>'
        )
    if shown_starts(policy):
        entries.append(
            f'{frame}<rect class="mid" width="10" height="10"/><circle class="start" cx="5" cy="5" r="3.8" '
            'stroke-width="1"/></svg>start</li>'
        )
    if policy.walls:
        entries.append(
            f'{frame}<rect class="wall" width="10" height="10"/>'
            '<path class="hatch" stroke-width="0.9" d="M0 4l4-4M0 10l10-10M6 10l4-4"/></svg>wall</li>'
        )
    entries += [
        _arrow_note(policy, *pair) for pair in zip(arrow_cells(policy), ("fine", "coarse"), strict=True)
    ]
    return entries


def _arrow_note(policy: PolicyMap, cells: int, style: str) -> str:
    """Whose directions one arrow is the mean of; `style` says on which screens that is so."""
    states = cells * policy.block
    if states == 1:
        return ""
    return (
        f'<li class="{style}">An arrow is the mean direction of {states} × {states} states, shorter where '
        "their actions differ.</li>"
    )
