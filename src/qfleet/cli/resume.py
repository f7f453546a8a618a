"""`qfleet resume`: goes on with a run."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from qfleet.assembly import Problem
from qfleet.cli.compilation import announce_compilation
from qfleet.cli.output import ending, print_json, twice
from qfleet.cli.parsing import parse
from qfleet.cli.signals import exit_code, resumable, say_how_to_go_on
from qfleet.errors import QfleetError
from qfleet.experiment import run_training, with_workers_now, write_if_new
from qfleet.interruption import Interruption
from qfleet.run import problem_of
from qfleet.runs.folder import RunFolder


@dataclass(frozen=True)
class ResumeFlags:
    """Goes on with a run from its newest sound checkpoint."""

    run: tyro.conf.Positional[str]
    """The run's folder."""
    steps: int | None = None
    """Environment steps, counted from the run's very first, after which it stops; else as it was told before."""
    until_return: float | None = None
    """Mean greedy return at which it stops; inf: never; else as it was told before."""
    workers: int | None = None
    """Tables: members of the topology, if other than before; under mpiexec as many as there are ranks."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print nothing but one JSON object, the summary, on standard output; all else goes to standard error."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Trains on and returns the exit code."""
    flags = parse("resume", ResumeFlags, arguments)
    folder = RunFolder.open(Path(flags.run))
    problem = with_workers_now(problem_of(folder, None, None), flags.workers)
    _check_there_is_more(folder, problem, flags)
    announce_compilation(flags.quiet)
    with Interruption() as interruption, resumable(folder):
        problem = _with_limits(problem, flags)
        write_if_new(folder, problem.settings)
        summary = run_training(
            problem,
            folder,
            quiet=flags.quiet,
            on_status=lambda status: None,
            resume=True,
            interruption=interruption,
        ).summary
        if flags.json:
            print_json(summary)
        elif not interruption:
            print(ending(summary))
        if interruption:
            say_how_to_go_on(summary["run"])
    return exit_code(interruption)


def _check_there_is_more(folder: RunFolder, problem: Problem, flags: ResumeFlags) -> None:
    """Refuses to go on where there is nothing left to do."""
    summary: dict[str, Any] = {}
    with suppress(QfleetError):
        summary = folder.read_summary()
    made, asked = summary.get("steps", 0), flags.steps
    if asked is not None and asked <= made:
        raise QfleetError(
            f"--steps {asked}: the run has made {made} already; give the new total, such as {twice(made)}"
        )
    if not summary.get("evaluation"):
        return
    if asked is None and made >= problem.settings.run.steps:
        raise QfleetError(
            f"the run has made all its {made} steps; for more: qfleet resume {folder.path} --steps {twice(made)}"
        )
    if flags.until_return is None and summary["stopped_by"] == "until_return":
        raise QfleetError(
            f"the run has solved its environment; for more: qfleet resume {folder.path} --until-return inf"
        )


def _with_limits(problem: Problem, flags: ResumeFlags) -> Problem:
    given = {"steps": flags.steps, "until_return": flags.until_return}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = replace(problem.settings, run=replace(problem.settings.run, **changes))
    return replace(problem, settings=settings)
