"""One HTML file that shows how runs went: learning curves, and a table of their summaries."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from qfleet.errors import QfleetError
from qfleet.runs.charts import Series, line_chart
from qfleet.runs.curves import Curve, RunRecord, curve, group_seeds, mean_and_margin, read_run
from qfleet.runs.fleet_report import role_charts, roles_table
from qfleet.runs.formatting import short_duration, short_number
from qfleet.runs.page import legend_entry, page, style_sheet, tile, write_page

_NUM_COLORS = 8
_TRAINING, _EVALUATION = "rollout/ep_rew_mean", "eval/mean_reward"
_SMALL_CHARTS = (
    ("Loss", "train/loss"),
    ("Exploration rate", "rollout/exploration_rate"),
    ("Steps per second", "time/fps"),
    ("Updates per step", "fleet/updates_per_step"),
)
_NAMES = ("environment", "algorithm", "topology", "backend", "workers", "seed")


def write_report(run_folders: list[Path], path: Path) -> None:
    """Writes one self-contained HTML page about the runs in `run_folders` to `path`.

    Runs that differ in their seed alone are one curve: their mean and its 95% interval.
    Raises QfleetError if a folder is no run's, or `path` cannot be written.
    """
    if not run_folders:
        raise QfleetError("a report of no run: name at least one run's folder")
    write_page(_page([read_run(folder) for folder in run_folders]), path)


def _page(runs: Sequence[RunRecord]) -> str:
    groups = group_seeds(runs)
    title, subtitle = _heading(runs)
    body = (
        f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p></header>'
        f"{_tiles(groups[0]) if len(groups) == 1 else ''}{_charts(groups)}{_table(runs)}{roles_table(runs)}"
        f"<footer>Written by Qfleet.{_interval_note(groups)}</footer>"
    )
    return page(title, style_sheet("report.css"), body)


def _heading(runs: Sequence[RunRecord]) -> tuple[str, str]:
    """What all runs have in common, and what else there is to say."""
    shared = [_common(runs, name) for name in ("environment", "algorithm")]
    title = " · ".join(name for name in shared if name) or "Runs"
    parts = [f"{topology} topology" if (topology := _common(runs, "topology")) else ""]
    parts.append(f"{backend} backend" if (backend := _common(runs, "backend")) else "")
    if len(runs) == 1:
        parts += [f"seed {runs[0].get('seed')}", str(runs[0].path)]
    else:
        parts.append(f"{len(runs)} runs")
    return title, ", ".join(part for part in parts if part)


def _common(runs: Sequence[RunRecord], name: str) -> str:
    values = {str(run.get(name)) for run in runs}
    return values.pop() if len(values) == 1 and values != {"None"} else ""


def _tiles(group: Sequence[RunRecord]) -> str:
    tiles = [_evaluation_tile(group)]
    for name, key, show in (
        ("Steps", "steps", short_number),
        ("Updates", "updates", short_number),
        ("Training time", "seconds", short_duration),
        ("Steps per second", "steps_per_second", short_number),
    ):
        values = [float(value) for run in group if isinstance(value := run.get(key), int | float)]
        if values:
            tiles.append(tile(name, show(float(np.mean(values))), "mean" if len(values) > 1 else ""))
    if stopped_by := _common(group, "stopped_by"):
        tiles.append(tile("Stopped by", stopped_by, ""))
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _evaluation_tile(group: Sequence[RunRecord]) -> str:
    evaluations = [found for run in group if (found := _evaluation(run))]
    if not evaluations:
        return tile("Greedy return", "–", "not evaluated yet")
    if len(evaluations) == 1:
        mean, std, episodes = evaluations[0]
        return tile("Greedy return", f"{mean:.5g}", f"± {std:.3g} over {episodes} episodes")
    mean, margin = mean_and_margin(np.array([[mean] for mean, _, _ in evaluations]))
    return tile("Greedy return", f"{mean[0]:.5g}", f"± {margin[0]:.3g} (95%) over {len(evaluations)} seeds")


def _evaluation(run: RunRecord) -> tuple[float, float, int] | None:
    """Mean, standard deviation and number of episodes."""
    found = run.summary.get("evaluation")
    if not isinstance(found, dict) or not isinstance(found.get("mean_return"), int | float):
        return None
    return float(found["mean_return"]), float(found.get("std_return") or 0.0), int(found.get("episodes") or 0)


def _charts(groups: Sequence[Sequence[RunRecord]]) -> str:
    """The same charts over steps and over seconds; two radio buttons and the style sheet choose."""
    return (
        '<section><input class="choice" type="radio" name="axis" id="steps" checked="checked"/>'
        '<input class="choice" type="radio" name="axis" id="seconds"/>'
        f'<div class="bar">{_legend(groups)}<div class="toggle"><label for="steps">over steps</label>'
        '<label for="seconds">over time</label></div></div><div class="charts">'
        f'<div class="charts wide over-steps">{_cards(groups, "step")}</div>'
        f'<div class="charts wide over-seconds">{_cards(groups, "seconds")}</div></div></section>'
    )


def _cards(groups: Sequence[Sequence[RunRecord]], x_name: str) -> str:
    scale, label = _x_axis(groups, x_name)
    returns = _series(groups, x_name, scale, _TRAINING, "training", dashed=False)
    returns += _series(groups, x_name, scale, _EVALUATION, "evaluation", dashed=True)
    cards = [_card("Return", line_chart("Return", label, returns, width=1060, height=360), "card wide")]
    for title, metric in _SMALL_CHARTS:
        if series := _series(groups, x_name, scale, metric, title.lower(), dashed=False):
            cards.append(_card(title, line_chart(title, label, series), "card"))
    if len(groups) == 1:
        charts = role_charts(groups[0], x_name, scale, label)
        cards += [_card(title, chart, "card") for title, chart in charts.items()]
    return "".join(cards)


def _card(title: str, chart: str, style: str) -> str:
    return f'<div class="{style}"><h2>{escape(title)}</h2>{chart}</div>'


def _x_axis(groups: Sequence[Sequence[RunRecord]], x_name: str) -> tuple[float, str]:
    """What to divide by, and the axis' name."""
    if x_name == "step":
        return 1.0, "steps"
    longest = max(
        (run.metrics[-1].get("seconds") or 0 for group in groups for run in group if run.metrics), default=0
    )
    return next(
        unit
        for unit in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if longest >= 2 * unit[0] or unit[0] == 1
    )


def _series(
    groups: Sequence[Sequence[RunRecord]], x_name: str, scale: float, metric: str, kind: str, dashed: bool
) -> list[Series]:
    found = [(index, curve(group, x_name, metric)) for index, group in enumerate(groups)]
    return [
        _scaled(
            line,
            scale,
            f"{_label(groups[index], groups)}, {kind}",
            _color(index, len(groups), dashed),
            dashed,
        )
        for index, line in found
        if line is not None
    ]


def _scaled(line: Curve, scale: float, name: str, color: int, dashed: bool) -> Series:
    low = None if line.low is None else line.low.tolist()
    high = None if line.high is None else line.high.tolist()
    return Series(name, (line.xs / scale).tolist(), line.ys.tolist(), color, dashed, low, high)


def _color(index: int, num_groups: int, dashed: bool) -> int:
    """A run alone shows its evaluation in a colour of its own."""
    return 1 if num_groups == 1 and dashed else index % _NUM_COLORS


def _label(group: Sequence[RunRecord], groups: Sequence[Sequence[RunRecord]]) -> str:
    """What tells the group from the others, in as few words as will do."""
    others = [run for other in groups for run in other]
    parts = [
        _shown(group[0].get(name), str) for name in _NAMES[:4] if len({run.get(name) for run in others}) > 1
    ]
    if (workers := group[0].get("workers")) and not _common(others, "workers"):
        parts.append(f"{workers} {'worker' if workers == 1 else 'workers'}")
    seeds = f"{len(group)} seeds" if len(group) > 1 else f"seed {group[0].get('seed')}"
    return ", ".join([*parts, seeds])


def _legend(groups: Sequence[Sequence[RunRecord]]) -> str:
    entries = []
    for index, group in enumerate(groups):
        if len(groups) > 1:
            entries.append(legend_entry(index % _NUM_COLORS, False, _label(group, groups)))
    has_evaluation = any(curve(group, "step", _EVALUATION) for group in groups)
    if has_evaluation or len(groups) == 1:
        style = 0 if len(groups) == 1 else 6
        entries.append(legend_entry(style, False, "training"))
    if has_evaluation:
        entries.append(legend_entry(1 if len(groups) == 1 else 6, True, "greedy evaluation"))
    return f'<div class="legend">{"".join(entries)}</div>'


def _table(runs: Sequence[RunRecord]) -> str:
    said = [name for name in ("environment", "algorithm", "topology", "backend") if _common(runs, name)]
    columns = [name for name in _NAMES if name not in said and any(run.get(name) is not None for run in runs)]
    numbers = ("steps", "updates", "training time", "steps/s", "greedy return")
    head = "".join(f"<th>{name}</th>" for name in ("run", *columns))
    head += "".join(f'<th class="number">{name}</th>' for name in numbers) + "<th>stopped by</th>"
    body = "".join(f"<tr>{_row(run, columns)}</tr>" for run in runs)
    return (
        '<section class="card" style="margin-top:16px"><h2>Summaries</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _row(run: RunRecord, columns: Sequence[str]) -> str:
    evaluation = _evaluation(run)
    numbers = [_shown(run.get("steps"), short_number), _shown(run.get("updates"), short_number)]
    numbers += [_shown(run.get("seconds"), short_duration), _shown(run.get("steps_per_second"), short_number)]
    numbers.append(f"{evaluation[0]:.5g} ± {evaluation[1]:.3g}" if evaluation else "–")
    cells = [run.path.resolve().name, *(_shown(run.get(name), str) for name in columns)]
    stopped_by = _shown(run.get("stopped_by"), str)
    return (
        "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in numbers)
        + f"<td>{escape(stopped_by)}</td>"
    )


def _shown(value: Any, show: Any) -> str:
    return "–" if value is None or (isinstance(value, float) and not np.isfinite(value)) else show(value)


def _interval_note(groups: Sequence[Sequence[RunRecord]]) -> str:
    if all(len(group) == 1 for group in groups):
        return ""
    return " Lines over several seeds are their mean; bands are its 95% confidence interval (Student’s t)."
