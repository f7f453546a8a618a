"""One setting with several seeds: a run for each, their mean, and how sure it is."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qfleet.errors import QfleetError
from qfleet.run import Run
from qfleet.runs.curves import mean_and_margin
from qfleet.runs.report import write_report
from qfleet.settings import Settings

TrainOnce = Callable[[Settings, Path], Run]
"""Trains with these settings in exactly this folder."""


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in their seed alone."""

    path: Path
    """Folder of the runs' folders and of their common report."""
    summaries: list[dict[str, Any]]
    """One a run that ended, in the seeds' order; the last one may have been interrupted."""

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before its last run had."""
        return any(summary["stopped_by"] == "interrupted" for summary in self.summaries)

    @property
    def returns(self) -> list[float]:
        """Mean greedy return of every run that was evaluated."""
        return [run["evaluation"]["mean_return"] for run in self.summaries if run["evaluation"]]

    @property
    def mean_return(self) -> float | None:
        """Mean of the runs' mean returns; None if there is none."""
        return float(np.mean(self.returns)) if self.returns else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean (Student's t); None of fewer than two runs."""
        mean, margin = (
            mean_and_margin(np.array(self.returns)[:, None]) if self.returns else ([0.0], [math.nan])
        )
        return None if math.isnan(margin[0]) else (float(mean[0] - margin[0]), float(mean[0] + margin[0]))

    def to_json(self) -> dict[str, Any]:
        """As --json prints it."""
        return {
            "sweep": str(self.path),
            "runs": self.summaries,
            "mean_return": self.mean_return,
            "interval": self.interval,
        }


def parse_seeds(text: str) -> list[int]:
    """0-9 or 0,3,5 or both as 0-3,8; raises QfleetError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise QfleetError(f"--seeds {text}: give whole numbers, as 0-9 or 0,3,5")
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise QfleetError(f"--seeds {text}: name every seed once, the smaller end of a range first")
    return seeds


def sweep(settings: Settings, seeds: Sequence[int], out: Path | None, train_once: TrainOnce) -> Sweep:
    """Trains with every seed in turn, until one run is interrupted; writes one report about all."""
    summaries: list[dict[str, Any]] = []
    with _parent(settings, out) as parent:
        for seed in seeds:
            seeded = replace(settings, run=replace(settings.run, seed=seed))
            summaries.append(train_once(seeded, parent / f"seed-{seed}").summary)
            write_report([Path(summary["run"]) for summary in summaries], parent / "report.html")
            if summaries[-1]["stopped_by"] == "interrupted":
                break
    return Sweep(parent, summaries)


@contextmanager
def _parent(settings: Settings, out: Path | None) -> Iterator[Path]:
    """The folder around the runs' folders; gone again if no run in it began."""
    name = f"{settings.environment}-{settings.run.algorithm}-seeds-{time.strftime('%Y%m%d-%H%M%S')}"
    path = Path("runs") / name.replace("/", "-").replace(":", "-") if out is None else out
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise QfleetError(f"{path} is there already; --seeds needs a new or empty folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QfleetError(f"no folder can be made at {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        if not any(path.iterdir()):
            shutil.rmtree(path)
