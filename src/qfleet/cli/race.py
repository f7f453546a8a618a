"""`qfleet race`: every parallel scheme on one world, and the report that compares them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from qfleet.cli.compilation import announce_compilation
from qfleet.cli.output import print_json
from qfleet.cli.parsing import parse
from qfleet.deep.support import Backend
from qfleet.racing import RACE_DEFAULTS, Race, RaceStatus
from qfleet.racing import race as run_race
from qfleet.runs.formatting import short_number
from qfleet.runs.progress import Progress
from qfleet.runs.race_finding import error_text, finding, percent, ratio, seconds_text
from qfleet.runs.race_record import SchemeRecord, race_to_json
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.program import Rule

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class WorldFlags:
    """What of the world can be chosen."""

    max_episode_steps: int = 0
    """Steps after which an episode is truncated; 0: as the world says."""
    environment_options: tuple[str, ...] = ()
    """Options of the world itself, as key=value (slip=0.1, is_slippery=False)."""
    import_modules: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()
    """Modules to import first, because they register environments; the current folder is searched too."""


@dataclass(frozen=True)
class RaceFlags:
    """Races serial, shared, averaged and partitioned learning on WORLD, for the same number of steps each.

    Writes one HTML page: errors to the exact solution, speed-ups, what workers exchanged, the learned policies.
    """

    world: tyro.conf.Positional[str]
    """GridWorld-64, FrozenLake8x8-v1, module:NAME: what qfleet train learns a table of without Python's help."""
    workers: int = 2
    """Members of each parallel scheme."""
    steps: int = 0
    """Environment steps of each scheme, of all workers together; 0: 16384 a state-action pair, 10 to 400 million."""
    algorithm: Rule = "q-learning"
    """What improves the values."""
    backend: Backend = "threads"
    """Where the workers of the parallel schemes run."""
    seed: int = 0
    """Seed of everything random."""
    out: str = ""
    """Folder of the race; else a new one in runs/."""
    json: Switch = False
    """Print nothing but one JSON object, the record, on standard output; all else goes to standard error."""
    quiet: Switch = False
    """Show no progress."""
    table: TabularConfig = field(default_factory=lambda: TabularConfig(**RACE_DEFAULTS))
    of_world: WorldFlags = field(default_factory=WorldFlags)


def main(arguments: Sequence[str]) -> int:
    """Races, says who was fastest and where the report is, and returns the exit code."""
    flags = parse("race", RaceFlags, arguments)
    announce_compilation(flags.quiet)
    shown = _Shown(flags.quiet)
    try:
        done = run_race(
            flags.world,
            workers=flags.workers,
            steps=flags.steps,
            algorithm=flags.algorithm,
            backend=flags.backend,
            seed=flags.seed,
            out=flags.out or None,
            on_status=shown.status,
            on_message=lambda line: print(line, file=sys.stderr),
            **vars(flags.table),
            **vars(flags.of_world),
        )
    finally:
        shown.close()
    if flags.json:
        print_json({"report": str(done.report), **race_to_json(done.record)})
    else:
        print(_ending(done))
    if done.interrupted_by:
        left = f"{len(done.record.schemes)} schemes are finished and in the report"
        print(f"qfleet: interrupted; {left}", file=sys.stderr)
        return 128 + done.interrupted_by
    return 0


class _Shown:
    """A live line for each scheme."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Progress | None = None

    def status(self, status: RaceStatus) -> None:
        """Begins a line, moves it, or ends it."""
        if self._quiet:
            return
        if status.phase == "preparing":
            self.close()
            print(status.scheme, file=sys.stderr, flush=True)
            return
        if self._live is None:
            self._live = Progress(status.total_steps).__enter__()
        self._live.update(status.steps, error=status.error)
        if status.phase == "finished":
            self.close()

    def close(self) -> None:
        """Leaves the line as it is."""
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None


_HEADINGS = ("scheme", "steps/s", "speed-up", "efficiency", "time", "to serial's error", "final error")


def _ending(done: Race) -> str:
    """The table, the finding, and where the report is."""
    rows = [_HEADINGS, *(_row(scheme) for scheme in done.record.schemes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", finding(done.record), f"report  {done.report}"])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first = row[0].ljust(widths[0])
    return [first, *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]


def _row(scheme: SchemeRecord) -> tuple[str, ...]:
    return (
        scheme.name,
        short_number(scheme.steps_per_second),
        ratio(scheme.speed_up),
        percent(scheme.efficiency),
        seconds_text(scheme.seconds),
        seconds_text(scheme.seconds_to_error),
        error_text(scheme.max_error),
    )
