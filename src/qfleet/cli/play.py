"""`qfleet play`: watch a run's agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from qfleet.cli.parsing import parse
from qfleet.errors import QfleetError
from qfleet.play import play
from qfleet.run import load_run


@dataclass(frozen=True)
class PlayFlags:
    """Plays greedy episodes with the best values of a run, in a window or written as a video."""

    run: tyro.conf.Positional[str]
    """The run's folder."""
    episodes: int = 1
    """Episodes to play."""
    seed: int | None = None
    """Seed of the episodes; unset: others every time."""
    video: str = ""
    """Write a video to this file (.mp4) instead of opening a window; needs no display."""


def main(arguments: Sequence[str]) -> int:
    """Plays, says what it returned and returns the exit code."""
    flags = parse("play", PlayFlags, arguments)
    if flags.episodes < 1:
        raise QfleetError(f"--episodes is {flags.episodes}; it must be at least 1")
    if flags.seed is not None and flags.seed < 0:
        raise QfleetError(f"--seed is {flags.seed}; it must not be negative")
    video = Path(flags.video) if flags.video else None
    for number, total in enumerate(play(load_run(flags.run), flags.episodes, flags.seed, video), start=1):
        print(f"episode {number}  return {total:.1f}")
    if video is not None:
        print(f"video      {video}")
    return 0
