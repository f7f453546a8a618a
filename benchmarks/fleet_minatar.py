"""MinAtar Breakout, the same steps and updates: Ape-X on threads against serial, each run a process of its own.

Acting is a tenth of MinAtar's work and learning the rest, so two threads of the learner share each minibatch and draw
32 at once; one thread is reported too. All have the settings tuned for MinAtar and draw by priority, as Ape-X does;
nothing is evaluated or saved before the end. Seconds are those of the metrics, from the start of the run to its last
step and update.
Run as `python benchmarks/fleet_minatar.py [STEPS [ROUNDS]]`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from acting_runs import NEVER
from timing import verdict

from qfleet.runs.metrics import read_metrics

ENVIRONMENT, NUM_ACTORS = "MinAtar/Breakout-v1", 2


SERIAL = "--topology serial"
APE_X = f"--topology ape-x --workers {NUM_ACTORS}"


def seconds_of(topology: str, steps: int, seed: int) -> float:
    """From the start to the last step's line in the metrics."""
    who = f"{topology} --backend threads --priority-exponent 0.6 --seed {seed}"
    limits = (
        f"--steps {steps} --until-return inf --evaluate-every-steps {NEVER} --checkpoint-every-steps {NEVER}"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = (
            f"-m qfleet train {ENVIRONMENT} {who} {limits} --max-evaluation-steps 2000 --out {folder}/run"
        )
        ended = subprocess.run(
            [sys.executable, *command.split(), "--json", "--quiet"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = [line for line in read_metrics(Path(folder) / "run") if "time/fps" in line]
    summary, seconds = json.loads(ended.stdout), lines[-1]["seconds"]
    print(
        f"         {topology}: {seconds:.1f} s, {summary['steps']:,} steps, {summary['updates']:,} updates, "
        f"return {summary['evaluation']['mean_return']:.1f}",
        flush=True,
    )
    return seconds


def main(steps: int, num_rounds: int) -> bool:
    ratios = []
    for seed in range(num_rounds):
        serial = seconds_of(SERIAL, steps, seed)
        alone = seconds_of(APE_X, steps, seed) / serial
        ratios.append(
            seconds_of(f"{APE_X} --learner-threads 2 --batches-per-sample 32", steps, seed) / serial
        )
        print(f"         of serial: {alone:.2f}, with two threads {ratios[-1]:.2f}", flush=True)
    name = "MinAtar Breakout, Ape-X on threads, two of them learning, of serial's wall clock"
    return verdict(name, median(ratios), "", at_most=0.75)


if __name__ == "__main__":
    asked = [int(one) for one in sys.argv[1:]]
    raise SystemExit(0 if main(*[*asked, *[300_000, 3][len(asked) :]]) else 1)
