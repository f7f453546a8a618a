"""`qfleet export`: a table and its greedy policy as a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from qfleet.cli.parsing import parse
from qfleet.errors import QfleetError
from qfleet.run import load_run


@dataclass(frozen=True)
class ExportFlags:
    """Writes a run's table and its greedy policy to a file that other programs read."""

    run: tyro.conf.Positional[str]
    """The run's folder."""
    out: str = ""
    """File to write: .csv (a line a state) or .npz (the arrays values and policy)."""


def main(arguments: Sequence[str]) -> int:
    """Writes the file, says where it lies and returns the exit code."""
    flags = parse("export", ExportFlags, arguments)
    if not flags.out:
        raise QfleetError(f"export needs --out: qfleet export {flags.run} --out values.csv (or values.npz)")
    load_run(flags.run).export(Path(flags.out))
    print(flags.out)
    return 0
