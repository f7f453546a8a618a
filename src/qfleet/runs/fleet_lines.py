"""How the roles of a run do, as lines of a terminal: one a role, and which of them the others wait for."""

from collections.abc import Mapping, Sequence

from qfleet.fleet_view import FleetView
from qfleet.runs.formatting import short_number

_GAP = "  "
_LEFT_OUT_FIRST = ("restarts", "staleness", "queue")
"""What a narrow terminal does without, in this order."""


def fleet_lines(view: FleetView, num_columns: int) -> list[str]:
    """Aligned lines that fit into so many columns, unless they are very few."""
    columns = {name: cells for name, cells in _columns(view).items() if any(cells)}
    for name in _LEFT_OUT_FIRST:
        if sum(_widths(columns)) + len(_GAP) * (len(columns) - 1) > num_columns:
            columns.pop(name, None)
    rows = zip(*columns.values(), strict=True)
    return [*(_row(row, _widths(columns)) for row in rows), f"  {_conclusion(view)}"]


def _columns(view: FleetView) -> dict[str, list[str]]:
    return {
        "name": [f"{'▸' if role is view.bottleneck else ' '} {role.title}" for role in view.roles],
        "rate": [f"{short_number(role.rate)} {role.unit}/s" for role in view.roles],
        "busy": [f"{role.busy:.0%} busy" for role in view.roles],
        "queue": [_said("queue {:.1f}", role.queue) for role in view.roles],
        "staleness": [_said("staleness {:.0f}", role.staleness) for role in view.roles],
        "restarts": [_said("restarts {}", role.restarts) for role in view.roles],
    }


def _said(words: str, value: float | None) -> str:
    return "" if value is None else words.format(value)


def _widths(columns: Mapping[str, Sequence[str]]) -> list[int]:
    return [max(map(len, cells)) for cells in columns.values()]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _conclusion(view: FleetView) -> str:
    ratio = "" if view.updates_per_step is None else f"; {view.updates_per_step:.3g} updates per step"
    return f"bottleneck: {view.bottleneck.name}{ratio}"
