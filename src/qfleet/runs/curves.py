"""Runs as curves: what one run measured, and several seeds of one setting as a mean with its interval."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.runs.folder import RunFolder
from qfleet.runs.metrics import read_metrics

_MAX_POINTS = 600
_GRID_POINTS = 200
_SO_FAR = {"steps": "step", "seconds": "seconds"}


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says about it."""

    path: Path
    """The folder."""
    config: dict[str, Any]
    """config.json."""
    summary: dict[str, Any]
    """summary.json; {} while the run has not ended."""
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl."""

    def get(self, key: str) -> Any:
        """`key` of the summary, or else of the config; steps and seconds so far if the run has not ended."""
        if key in self.summary:
            return self.summary[key]
        if key in _SO_FAR:
            return self.metrics[-1].get(_SO_FAR[key]) if self.metrics else None
        return self.config.get(key) if key == "environment" else self._asked.get(key)

    @property
    def setting(self) -> str:
        """Equal for runs that differ in their seed alone."""
        return json.dumps({**self.config, "run": {**self._asked, "seed": None}}, sort_keys=True)

    @property
    def _asked(self) -> dict[str, Any]:
        section = self.config.get("run")
        return section if isinstance(section, dict) else {}


@dataclass(frozen=True)
class Curve:
    """Points of one line, with the edges of a band where it is a mean."""

    xs: NDArray[np.float64]
    """(points,)"""
    ys: NDArray[np.float64]
    """(points,)"""
    low: NDArray[np.float64] | None = None
    """(points,): lower edge of the 95% interval of the mean."""
    high: NDArray[np.float64] | None = None
    """(points,): its upper edge."""


def read_run(path: Path) -> RunRecord:
    """Raises QfleetError if `path` is no run's folder."""
    folder = RunFolder.open(path)
    try:
        summary = folder.read_summary()
    except QfleetError:
        summary = {}
    return RunRecord(path, folder.read_config(), summary, read_metrics(path))


def group_seeds(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs of the same setting with different seeds together, in the order given; others alone."""
    groups: list[list[RunRecord]] = []
    for run in runs:
        for group in groups:
            if group[0].setting == run.setting and run.get("seed") not in [
                other.get("seed") for other in group
            ]:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def curve(group: Sequence[RunRecord], x_name: str, y_name: str) -> Curve | None:
    """`y_name` over `x_name` ("step" or "seconds"), as the group's mean; None if not recorded."""
    curves = [found for run in group if (found := _single(run, x_name, y_name))]
    return _mean(curves) if len(curves) > 1 else next(iter(curves), None)


def mean_and_margin(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over axis 0 of (samples, points), and half the width of its 95% interval (Student's t)."""
    # scipy.special is imported late: only sweeps need it.
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return values.mean(axis=0), np.full(values.shape[1:], np.nan)
    quantile = float(stdtrit(count - 1, 0.975))
    return values.mean(axis=0), quantile * values.std(axis=0, ddof=1) / math.sqrt(count)


def _single(run: RunRecord, x_name: str, y_name: str) -> Curve | None:
    lines = [line for line in run.metrics if y_name in line and line.get(x_name) is not None]
    if not any(line[y_name] is not None for line in lines):
        return None
    stride = -(-len(lines) // _MAX_POINTS)
    lines = lines[::-1][::stride][::-1]
    xs = np.array([line[x_name] for line in lines], dtype=np.float64)
    ys = np.array([math.nan if line[y_name] is None else line[y_name] for line in lines], dtype=np.float64)
    return Curve(xs, ys)


def _mean(curves: Sequence[Curve]) -> Curve:
    """Interpolated where every seed has points, so that the mean never jumps because one has ended."""
    finite = [(c.xs[np.isfinite(c.ys)], c.ys[np.isfinite(c.ys)]) for c in curves]
    start, end = max(xs[0] for xs, _ in finite), min(xs[-1] for xs, _ in finite)
    num_points = min(_GRID_POINTS, max(len(xs) for xs, _ in finite)) if end > start else 1
    grid = np.linspace(start, max(start, end), num_points)
    mean, margin = mean_and_margin(np.stack([np.interp(grid, xs, ys) for xs, ys in finite]))
    return Curve(grid, mean, mean - margin, mean + margin)
