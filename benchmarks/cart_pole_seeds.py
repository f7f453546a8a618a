"""CartPole under every topology of several workers, with defaults: each seed a process of its own, from start to exit.

Run as `python benchmarks/cart_pole_seeds.py [--topologies ape-x pooled ...] [--backends threads ...] [--seeds 0 1 ...]
[--lines FILE]`. Every run is a line of JSON, added to FILE, so that the whole can be run in parts; at the end come a
table of all lines there, in Markdown, and what of them falls short.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from timing import verdict

TOPOLOGIES = (
    "averaged",
    "data-parallel",
    "pooled",
    "asynchronous",
    "async-n-step",
    "parameter-server",
    "ape-x",
    "model-parallel",
)
NUM_WORKERS, LEAST_RETURN, MOST_SECONDS, TIMEOUT_SECONDS = 2, 475, 60, 600
Line = dict[str, Any]


def does_not_run(topology: str, backend: str) -> bool:
    """Model-parallel splits one network: on threads there is nothing to split it over."""
    return topology == "model-parallel" and backend == "threads"


def run(topology: str, backend: str, seed: int) -> Line:
    """One run; a failed one has a return of None, and its last words."""
    where = f"--topology {topology} --backend {backend} --workers {NUM_WORKERS} --seed {seed}"
    with tempfile.TemporaryDirectory() as folder:
        command = f"-m qfleet train CartPole-v1 {where} --json --quiet --out {folder}/run"
        start = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, *command.split()], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
        seconds = time.perf_counter() - start
    line: Line = {"topology": topology, "backend": backend, "seed": seed, "wall_seconds": round(seconds, 1)}
    if ended.returncode:
        return line | {"return": None, "error": ended.stderr.strip().splitlines()[-1:]}
    summary = json.loads(ended.stdout)
    kept = {name: summary[name] for name in ("seconds", "steps", "updates", "stopped_by")}
    return line | {"return": summary["evaluation"]["mean_return"]} | kept


def read_lines(path: Path) -> list[Line]:
    """The newest of each run."""
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    return list({(line["topology"], line["backend"], line["seed"]): line for line in lines}.values())


def worst_return(lines: list[Line]) -> float:
    return min(-1.0 if line["return"] is None else line["return"] for line in lines)


def print_table(groups: dict[tuple[str, str], list[Line]]) -> None:
    print(
        "\n| topology | backend | seeds | solved | worst return | median, longest wall clock | million steps |"
    )
    print("|---|---|---|---|---|---|---|")
    for (topology, backend), lines in groups.items():
        seconds = sorted(line["wall_seconds"] for line in lines)
        solved = sum(worst_return([line]) >= LEAST_RETURN for line in lines)
        steps = sum(line.get("steps", 0) for line in lines) / len(lines)
        seeds = ", ".join(str(seed) for seed in sorted(line["seed"] for line in lines))
        print(
            f"| {topology} | {backend} | {seeds} | {solved} of {len(lines)} | {worst_return(lines):.1f} | "
            f"{seconds[len(seconds) // 2]:.1f} s, {seconds[-1]:.1f} s | {steps / 1e6:.3f} |"
        )
    print(flush=True)


def judge(groups: dict[tuple[str, str], list[Line]]) -> bool:
    """The clock counts on threads alone."""
    reached = []
    for (topology, backend), lines in groups.items():
        name = f"{topology} on {backend}, worst of {len(lines)} seeds"
        reached.append(verdict(name, worst_return(lines), "return", at_least=LEAST_RETURN))
        if backend == "threads":
            longest = max(line["wall_seconds"] for line in lines)
            reached.append(verdict(f"{topology} on {backend}, longest", longest, "s", at_most=MOST_SECONDS))
    return all(reached)


def main(arguments: argparse.Namespace, path: Path) -> bool:
    for topology in arguments.topologies:
        for backend in arguments.backends:
            for seed in () if does_not_run(topology, backend) else arguments.seeds:
                line = run(topology, backend, seed)
                print(json.dumps(line), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in read_lines(path):
        groups[line["topology"], line["backend"]].append(line)
    print_table(groups)
    return judge(groups)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topologies", nargs="*", choices=TOPOLOGIES, default=TOPOLOGIES)
    parser.add_argument("--backends", nargs="*", choices=("threads", "processes", "ray"), default=["threads"])
    parser.add_argument("--seeds", nargs="*", type=int, default=range(5))
    parser.add_argument("--lines", type=Path, help="where lines are added; left out, only this call's count")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        raise SystemExit(0 if main(asked, asked.lines or Path(own) / "lines.jsonl") else 1)
