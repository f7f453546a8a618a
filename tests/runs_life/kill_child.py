"""Trains, or goes on if there is a run already, saying every step: the victim of test_resume.py."""

import sys
from pathlib import Path

import qfleet
from tests.runs_life.tiny import train_tiny


def say(status: qfleet.Status) -> None:
    sys.stdout.write(f"{status.steps}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    environment, topology, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if (out / "config.json").exists():
        qfleet.resume(out, on_status=say)
    else:
        train_tiny(environment, out, topology=topology, on_status=say)
