"""The examples of tables, as a user would run them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def output_of(example: str, folder: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / example)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_inventory_is_learned_to_its_exact_values(tmp_path: Path) -> None:
    lines = output_of("inventory.py", tmp_path).splitlines()
    (error,) = (float(line.split()[-1]) for line in lines if line.startswith("largest error"))
    exact, learned = (float(line.split()[-1]) for line in lines if line.startswith("worth"))
    assert error < 1  # of values around 250
    assert exact - 1 < learned <= exact


def test_a_world_of_ones_own_is_learned_to_its_best_return(tmp_path: Path) -> None:
    assert "'mean_return': -15.0" in output_of("own_world.py", tmp_path)
