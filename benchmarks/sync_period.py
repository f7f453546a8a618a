"""Error and time against the sync period: what is told rarely costs little time, and what is told often is fresh.

Draws docs/images/sync_period.svg. `--steps N` for a shorter run.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from qfleet.backends.threads import ThreadFleet
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.cut import cut_blocks
from qfleet.tabular.learner import Task
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.worlds.catalogue import make_world

matplotlib.use("svg")
from matplotlib import pyplot  # after the choice of what draws

WORLD, OPTIONS, WORKERS = "GridWorld-64", {"slip": "0.2"}, 2
PERIODS = [2**power for power in range(8, 21, 2)]
COLOURS = {"averaged": "#0b62a4", "partitioned": "#c2410c"}
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "sync_period.svg"


@dataclass(frozen=True)
class Point:
    """One run of a number of steps that is the same for all."""

    error: float
    """Largest distance from the exact values at the end."""
    seconds: float
    """Of training, without starting and compiling."""


def learn(task: Task, scheme: str, period: int, exact: np.ndarray) -> Point:
    """On threads, from nothing."""
    fleet = ThreadFleet()
    try:
        if scheme == "averaged":
            topology = Averaged(fleet, task, AveragedConfig(sync_every_steps=period, merge="visits"))
        else:
            cut = cut_blocks(task.world.num_states, WORKERS)
            topology = Partitioned(fleet, task, cut, PartitionedConfig(sync_every_steps=period))
        topology.prepare()
        started = time.perf_counter()
        while topology.num_steps < task.total_steps:
            topology.advance(topology.num_steps + task.total_steps // 100)
        seconds = time.perf_counter() - started
        return Point(float(np.abs(topology.values()[0] - exact).max()), seconds)
    finally:
        fleet.close()


def measure(steps: int) -> dict[str, list[Point]]:
    """Every scheme at every period."""
    world = make_world(WORLD, OPTIONS)
    assert world is not None and world.mdp is not None
    config = TabularConfig(
        learning_rate=1.0,
        learning_rate_schedule="visits",
        learning_rate_exponent=0.7,
        exploration_initial=1.0,
        exploration_final=1.0,
        discount=0.98,
        walkers=1024,
    )
    task = Task(world, "q-learning", config, 1, steps, WORKERS)
    exact = world.mdp().fixed_point(config.discount, "greedy")
    points = {}
    for scheme in COLOURS:
        points[scheme] = [learn(task, scheme, period, exact) for period in PERIODS]
        for period, point in zip(PERIODS, points[scheme], strict=True):
            print(
                f"         {scheme}, {period:9,} steps: error {point.error:.4f}, {point.seconds:7.2f} s",
                flush=True,
            )
    return points


def draw(points: dict[str, list[Point]], steps: int) -> None:
    """Two panels over the period: the error, and the time."""
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sync period", "font.size": 10})
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), facecolor="white", layout="constrained")
    for scheme, colour in COLOURS.items():
        for panel, name in zip(panels, ("error", "seconds"), strict=True):
            values = [getattr(point, name) for point in points[scheme]]
            panel.plot(PERIODS, values, "o-", color=colour, label=scheme)
    for panel, label in zip(panels, ("max_error at the end", "time (s)"), strict=True):
        panel.set(
            xscale="log", yscale="log", xlabel="steps of each worker between two exchanges", ylabel=label
        )
        panel.set_xscale("log", base=2)
        panel.grid(True, which="major", color="#dddddd", linewidth=0.6)
        panel.legend(frameon=False)
    figure.suptitle(f"{WORLD} with slip 0.2, {WORKERS} workers on threads, {steps / 1e6:,.0f} million steps")
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000_000)
    arguments = parser.parse_args()
    draw(measure(arguments.steps), arguments.steps)
    print(f"         {FIGURE.name} drawn")
