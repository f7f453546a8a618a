"""`qfleet evaluate`: greedy episodes of a run's best values."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from qfleet.cli.output import print_json, return_text
from qfleet.cli.parsing import parse
from qfleet.errors import QfleetError
from qfleet.run import load_run


@dataclass(frozen=True)
class EvaluateFlags:
    """Plays greedy episodes that training never saw, with the best values of a run."""

    run: tyro.conf.Positional[str]
    """The run's folder."""
    episodes: int = 100
    """Episodes to play."""
    seed: int | None = None
    """Seed of the episodes; unset: the same ones as at the end of training."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print nothing but one JSON object on standard output."""


def main(arguments: Sequence[str]) -> int:
    """Evaluates and returns the exit code."""
    flags = parse("evaluate", EvaluateFlags, arguments)
    if flags.episodes < 1:
        raise QfleetError(f"--episodes is {flags.episodes}; it must be at least 1")
    if flags.seed is not None and flags.seed < 0:
        raise QfleetError(f"--seed is {flags.seed}; it must not be negative")
    run = load_run(flags.run)
    result = run.evaluate(flags.episodes, flags.seed).summary()
    if flags.json:
        print_json({"run": str(run.path), **result})
    else:
        print(f"return  {return_text(result)}, {result['mean_length']:.0f} steps long in the mean")
    return 0
