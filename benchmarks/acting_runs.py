"""Runs that neither evaluate nor save, most of them without learning, and how fast they went by their metrics."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import qfleet
from qfleet.runs.metrics import read_metrics

NEVER = 10**9
START_SHARE = 0.2
"""Of a run's steps, those that are not looked at: services load their kernels, and fall out of step."""


def acting_rate(make_environment: Callable[[], gymnasium.Env], steps: int, **settings: Any) -> float:
    """Environment steps a second of all actors of Ape-X, after the start; learning would begin after the run."""
    return run_rate(make_environment, steps, topology="ape-x", learning_starts_steps=NEVER, **settings)


def run_rate(environment: Any, steps: int, **settings: Any) -> float:
    """Environment steps a second of a run that neither evaluates nor saves, after its start."""
    with tempfile.TemporaryDirectory() as folder:
        qfleet.train(
            environment,
            algorithm="dqn",
            steps=steps,
            until_return=np.inf,
            evaluate_every_steps=NEVER,
            checkpoint_every_steps=NEVER,
            evaluation_episodes=1,
            final_episodes=1,
            max_evaluation_steps=1,
            out=f"{folder}/run",
            **settings,
        )
        return rate_after_start(Path(folder) / "run")


def rate_after_start(run: Path) -> float:
    """Steps a second: the slope of steps over seconds, since steps come in blocks."""
    lines = [line for line in read_metrics(run) if "time/fps" in line]
    steps, seconds = (np.array([line[name] for line in lines], float) for name in ("step", "seconds"))
    later = steps >= START_SHARE * steps[-1]
    return float(np.polyfit(seconds[later], steps[later], 1)[0])
