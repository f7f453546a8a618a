"""Trains a table, or goes on if there is a run already, saying every turn: the victim of test_table_resume.py."""

import sys
from pathlib import Path

import qfleet
from tests.runs_life.kill_child import say
from tests.runs_life.tables import train_small

if __name__ == "__main__":
    name, out = sys.argv[1], Path(sys.argv[2])
    if (out / "config.json").exists():
        qfleet.resume(out, on_status=say)
    else:
        train_small("tests.runs_life.tables:make_uneven", out, name, on_status=say)
