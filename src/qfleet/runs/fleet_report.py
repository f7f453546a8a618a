"""How the roles of a topology did, for the report: their load over the run, and a table of what they came to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from qfleet.runs.charts import Series, line_chart
from qfleet.runs.curves import RunRecord, curve
from qfleet.runs.formatting import short_number
from qfleet.runs.page import legend_entry

_BUSY = re.compile(r"fleet/(\w+)/busy")
_RATE = re.compile(r"fleet/(\w+)/(\w+)_per_second")
_CHARTS = (("Busy, % of the time, by role", "busy", 100.0), ("Staleness, updates", "staleness", 1.0))


@dataclass(frozen=True)
class RoleRecord:
    """What a role of a run came to; means over the lines of its metrics."""

    name: str
    unit: str
    rate: float
    """Of that unit, a second."""
    busy: float
    bottleneck: float
    """Share of the lines in which it was the busiest."""
    queue: float | None
    staleness: float | None
    staleness_p99: float | None
    restarts: int | None
    """In the run's last session."""


def roles_of(run: RunRecord) -> list[RoleRecord]:
    """The roles that its metrics know, the busiest first."""
    names = dict.fromkeys(key for line in run.metrics for key in line if key.startswith("fleet/"))
    units = {match[1]: match[2] for name in names if (match := _RATE.fullmatch(name))}
    roles = [match[1] for name in names if (match := _BUSY.fullmatch(name))]
    found = [_role(run, role, units[role]) for role in roles if role in units]
    return sorted(found, key=lambda role: -role.busy)


def _role(run: RunRecord, role: str, unit: str) -> RoleRecord:
    def values(name: str) -> list[float]:
        key = f"fleet/{role}/{name}"
        return [float(line[key]) for line in run.metrics if isinstance(line.get(key), int | float)]

    def mean(name: str) -> float | None:
        return float(np.mean(found)) if (found := values(name)) else None

    restarts = values("restarts")
    return RoleRecord(
        role.replace("_", " "),
        unit,
        mean(f"{unit}_per_second") or 0.0,
        mean("busy") or 0.0,
        mean("is_bottleneck") or 0.0,
        mean("queue"),
        mean("staleness"),
        max(values("staleness_p99"), default=None),
        int(restarts[-1]) if restarts else None,
    )


def role_charts(group: Sequence[RunRecord], x_name: str, scale: float, label: str) -> dict[str, str]:
    """By title: charts with their legends, of what is known of roles."""
    found = {}
    for title, metric, factor in _CHARTS:
        series = [
            Series(role.name, (line.xs / scale).tolist(), (factor * line.ys).tolist(), color)
            for color, role in enumerate(roles_of(group[0]))
            if (line := curve(group, x_name, f"fleet/{role.name.replace(' ', '_')}/{metric}")) is not None
        ]
        if series:
            legend = "".join(legend_entry(one.color, False, one.name) for one in series)
            found[title] = line_chart(title, label, series) + f'<div class="legend">{legend}</div>'
    return found


def roles_table(runs: Sequence[RunRecord]) -> str:
    """A card with one row a role of each run; "" where nothing is known of roles."""
    rows = [_row(run, role) for run in runs for role in roles_of(run)]
    if not rows:
        return ""
    numbers = ("rate", "busy", "bottleneck", "queue", "staleness", "staleness p99", "restarts")
    head = "<th>run</th><th>role</th>" + "".join(f'<th class="number">{name}</th>' for name in numbers)
    return (
        '<section class="card" style="margin-top:16px"><h2>Roles</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="subtitle">Means over the run. Bottleneck: share of the time in which a role was busier than '
        "the others.</p></section>"
    )


def _row(run: RunRecord, role: RoleRecord) -> str:
    numbers = (
        f"{short_number(role.rate)} {role.unit}/s",
        f"{role.busy:.0%}",
        f"{role.bottleneck:.0%}",
        "–" if role.queue is None else f"{role.queue:.1f}",
        "–" if role.staleness is None else f"{role.staleness:.1f}",
        "–" if role.staleness_p99 is None else f"{role.staleness_p99:.0f}",
        "–" if role.restarts is None else str(role.restarts),
    )
    cells = "".join(f"<td>{escape(text)}</td>" for text in (run.path.resolve().name, role.name))
    cells += "".join(f'<td class="number">{escape(text)}</td>' for text in numbers)
    return f"<tr>{cells}</tr>"
