"""What commands print: one JSON object, or a few lines for people."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from qfleet.runs.formatting import short_duration, short_number
from qfleet.sweep import Sweep

_REASONS = {
    "steps": "all its steps are made",
    "episodes": "all its episodes are played",
    "until_return": "the environment is solved",
    "until_change": "its values change no more",
    "until_error": "its values are as near to the exact ones as asked",
    "interrupted": "it was interrupted",
}


def print_json(value: dict[str, Any]) -> None:
    """One object on one line; its numbers are finite."""
    print(json.dumps(value, allow_nan=False))


def lines(rows: list[tuple[str, str]]) -> str:
    """Names and what they are, in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def return_text(evaluation: dict[str, Any]) -> str:
    """500.0 ± 0.0 over 100 greedy episodes."""
    episodes = evaluation["episodes"]
    return (
        f"{evaluation['mean_return']:.1f} ± {evaluation['std_return']:.1f} over {episodes:,} greedy "
        f"{'episode' if episodes == 1 else 'episodes'}"
    )


def ending(summary: dict[str, Any]) -> str:
    """How a run ended, where it lies and what to type next."""
    run, evaluation = summary["run"], summary["evaluation"]
    rows = [] if evaluation is None else [("return", return_text(evaluation))]
    reason = _REASONS.get(summary["stopped_by"], summary["stopped_by"])
    seconds, rate = short_duration(summary["seconds"]), summary["steps_per_second"]
    speed = f", {short_number(rate)} a second" if rate else ""
    if summary.get("max_error") is not None:
        rows.append(("error", f"{summary['max_error']:.2g} at most, against the exact values"))
    rows += [
        ("stopped", f"after {summary['steps']:,} steps in {seconds}{speed}: {reason}"),
        ("run", run),
        ("next", f"{program()} play {run}"),
        ("", resume_command(summary)),
        ("", f"{program()} report {run}"),
    ]
    return lines(rows)


def resume_command(summary: dict[str, Any]) -> str:
    """What goes on with a run: past what ended it."""
    further = {"steps": f" --steps {twice(summary['steps'])}", "until_return": " --until-return inf"}
    return f"{program()} resume {summary['run']}{further.get(summary['stopped_by'], '')}"


def program() -> str:
    """How this program is called here: `qfleet`, or the path to it where the shell would not find it."""
    called = Path(sys.argv[0])
    if shutil.which("qfleet") is not None or called.name != "qfleet":
        return "qfleet"
    return os.path.relpath(called)


def twice(steps: int) -> int:
    """About twice as many, in a round number."""
    return int(float(f"{2 * steps:.2g}"))


def sweep_ending(result: Sweep) -> str:
    """One line a run, then their mean, where they lie and what to type next."""
    rows = []
    for summary in result.summaries:
        evaluation = summary["evaluation"]
        text = "not evaluated" if evaluation is None else return_text(evaluation)
        rows.append((f"seed {summary['seed']}", f"{text}, {summary['steps']:,} steps"))
    if result.mean_return is not None:
        interval = result.interval
        sure = "" if interval is None else f", 95% interval {interval[0]:.1f} to {interval[1]:.1f}"
        rows.append(("mean", f"{result.mean_return:.1f}{sure}"))
    rows += [("runs", str(result.path)), ("report", str(result.path / "report.html"))]
    return lines(rows)
