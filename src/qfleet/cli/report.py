"""`qfleet report`: one page about several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from qfleet.cli.parsing import parse
from qfleet.runs.folder import RunFolder
from qfleet.runs.report import write_report


@dataclass(frozen=True)
class ReportFlags:
    """Draws the learning curves of runs side by side, in one HTML page that needs nothing else."""

    run: tyro.conf.Positional[tuple[str, ...]]
    """Runs' folders, or folders of several runs as --seeds makes them."""
    out: str = ""
    """Where to write it; else report.html: in the folder if it is one, in the current one if they are several."""


def main(arguments: Sequence[str]) -> int:
    """Writes the page, says where it lies and returns the exit code."""
    flags = parse("report", ReportFlags, arguments)
    folders = [Path(folder) for folder in flags.run]
    runs = [run for folder in folders for run in _runs_of(folder)]
    beside = folders[0] if len(folders) == 1 else Path()
    path = Path(flags.out) if flags.out else beside / "report.html"
    write_report(runs, path)
    print(path)
    return 0


def _runs_of(folder: Path) -> list[Path]:
    """The folder itself, or, where it is a sweep's, the runs in it."""
    runs = [path for path in folder.glob("seed-*") if (path / "config.json").is_file()]
    if runs and not (folder / "config.json").is_file():
        return sorted(runs, key=lambda path: (len(path.name), path.name))
    return [RunFolder.open(folder).path]
