"""`qfleet train`: one run, or one a seed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from qfleet.assembly import Problem
from qfleet.cli.compilation import announce_compilation
from qfleet.cli.output import ending, print_json, sweep_ending
from qfleet.cli.signals import exit_code, resumable, say_how_to_go_on
from qfleet.cli.training_flags import TrainFlags, read_train_flags
from qfleet.errors import QfleetError
from qfleet.experiment import new_folder, run_training
from qfleet.interruption import Interruption
from qfleet.run import Run, read_values
from qfleet.runs.folder import RunFolder
from qfleet.settings import Settings
from qfleet.sweep import parse_seeds, sweep


def main(arguments: Sequence[str]) -> int:
    """Trains and returns the exit code."""
    flags, settings = read_train_flags(arguments)
    out = Path(flags.out) if flags.out else None
    if flags.seeds:
        if any(argument.partition("=")[0] == "--seed" for argument in arguments):
            raise QfleetError("--seed and --seeds are given; --seeds alone names all seeds")
        return _sweep(flags, settings, out)
    with Interruption() as interruption:
        summary = _train(settings, out, flags.quiet, interruption).summary
        if flags.json:
            print_json(summary)
        elif not interruption:
            print(ending(summary))
        if interruption:
            say_how_to_go_on(summary["run"])
    return exit_code(interruption)


def _train(settings: Settings, out: Path | None, quiet: bool, interruption: Interruption) -> Run:
    announce_compilation(quiet)
    start = settings.run.warm_start
    warm_start = read_values(RunFolder.open(Path(start))) if start else None
    problem = Problem(settings, settings.environment)
    with new_folder(problem, out) as folder, resumable(folder):
        return run_training(
            problem,
            folder,
            quiet=quiet,
            on_status=lambda status: None,
            warm_start=warm_start,
            interruption=interruption,
        )


def _sweep(flags: TrainFlags, settings: Settings, out: Path | None) -> int:
    interruption = Interruption()

    def train_once(seeded: Settings, folder: Path) -> Run:
        nonlocal interruption
        if not flags.quiet:
            print(f"seed {seeded.run.seed}", file=sys.stderr)
        with Interruption() as interruption:
            return _train(seeded, folder, flags.quiet, interruption)

    result = sweep(settings, parse_seeds(flags.seeds), out, train_once)
    if flags.json:
        print_json(result.to_json())
    else:
        print(sweep_ending(result))
    if interruption:
        say_how_to_go_on(result.summaries[-1]["run"])
    return exit_code(interruption)
