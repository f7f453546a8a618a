"""The defaults: `qfleet train ENVIRONMENT` from process start to exit, every seed a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from timing import verdict


def train(environment: str, seed: int) -> tuple[float, float]:
    """Seconds from process start to exit, and the mean greedy return."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "qfleet",
            "train",
            environment,
            "--seed",
            str(seed),
            "--json",
            "--quiet",
        ]
        start = time.perf_counter()
        output = subprocess.run(
            [*command, "--out", f"{folder}/run"], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
    summary = json.loads(output.stdout)
    mean_return = summary["evaluation"]["mean_return"]
    print(
        f"         {environment} seed {seed}: {seconds:.1f} s, return {mean_return:.1f}, "
        f"{summary['steps']:,} steps, {summary['updates']:,} updates, stopped by {summary['stopped_by']}",
        flush=True,
    )
    return seconds, mean_return


def first_run_ever() -> None:
    """With an empty kernel cache, as on a machine that has never run Qfleet."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        seconds, _ = train("CartPole-v1", 0)
        del os.environ["XDG_CACHE_HOME"]
    print(f"         the first run ever, which compiles the kernels: {seconds:.1f} s", flush=True)


def check(environment: str, seeds: range, least_return: float, most_seconds: float, statistic: str) -> bool:
    results = [train(environment, seed) for seed in seeds]
    seconds = [result[0] for result in results]
    figure = median(seconds) if statistic == "median" else max(seconds)
    reached = verdict(f"{environment}, {statistic} wall clock", figure, "s", at_most=most_seconds)
    worst = min(result[1] for result in results)
    return verdict(f"{environment}, worst seed's return", worst, "", at_least=least_return) and reached


if __name__ == "__main__":
    first_run_ever()
    outcomes = [
        check("CartPole-v1", range(10), 475, 10, "median"),
        check("Acrobot-v1", range(5), -95, 60, "largest"),
        check("MountainCar-v0", range(5), -120, 120, "largest"),
        check("LunarLander-v3", range(5), 200, 240, "largest"),
    ]
    raise SystemExit(0 if all(outcomes) else 1)
