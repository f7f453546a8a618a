"""Races with numbers like those of real ones, without running them."""

import math

import numpy as np
from numpy.typing import NDArray

from qfleet.runs.policy_map import GridLayout, PolicyMap, policy_map
from qfleet.runs.race_record import RaceRecord, SchemeRecord

# name, topology, merge, efficiency, decades of error a million steps
SCHEMES = (
    ("serial", "serial", None, 1.0, 0.30),
    ("shared", "shared", None, 0.91, 0.295),
    ("averaged (equal)", "averaged", "equal", 0.975, 0.27),
    ("averaged (visits)", "averaged", "visits", 0.96, 0.29),
    ("partitioned", "partitioned", None, 0.985, 0.285),
)


def make_layout(rows: int, columns: int) -> GridLayout:
    """Two interior walls with a door each; the last cell ends the episode, the first starts it."""
    walls = np.zeros((rows, columns), np.bool_)
    if rows >= 8:
        walls[: rows * 3 // 4, columns // 3] = True
        walls[rows // 3 :, 2 * columns // 3] = True
        walls[rows // 2, columns // 3] = walls[rows - 4, 2 * columns // 3] = False
    terminal = np.arange(rows * columns) == rows * columns - 1
    return GridLayout((rows, columns), walls.ravel(), terminal, np.arange(rows * columns) == 0)


def make_policy(layout: GridLayout, discount: float, noise: float, seed: int) -> PolicyMap:
    """Values by the distance to the goal, with errors; actions greedy for them."""
    rows, columns = layout.shape
    distance = distances(layout)
    rng = np.random.default_rng(seed)
    values = discount ** np.maximum(distance - 1, 0) * (1 + 0.3 * noise * rng.standard_normal(rows * columns))
    values[~np.isfinite(values)] = 0.0
    padded = np.pad(distance.reshape(rows, columns), 1, constant_values=np.inf)
    around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    around = around + np.where(rng.random(around.shape) < noise, 1.5, 0) + 0.3 * rng.random(around.shape)
    return policy_map(values, np.argmin(around, axis=0).ravel(), layout)


def distances(layout: GridLayout) -> NDArray[np.float64]:
    """Steps to the last cell around the walls."""
    rows, columns = layout.shape
    walls = layout.flags("walls")
    distance = np.full((rows, columns), np.inf)
    frontier, length = [(rows - 1, columns - 1)], 0
    distance[rows - 1, columns - 1] = 0
    while frontier:
        length += 1
        reached = []
        for row, column in frontier:
            for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= place[0] < rows and 0 <= place[1] < columns
                if inside and not walls[place] and distance[place] == np.inf:
                    distance[place] = length
                    reached.append(place)
        frontier = reached
    return distance.ravel()


def make_scheme(
    index: int, steps: int, workers: int, exact: bool, policy: PolicyMap | None, serial_rate: float = 92e6
) -> SchemeRecord:
    name, topology, merge, share, slope = SCHEMES[index]
    used = 1 if topology == "serial" else workers
    rate = serial_rate * used * share
    places = np.linspace(0, steps, 81)[1:]
    rng = np.random.default_rng(index)
    noise = np.exp(0.05 * rng.standard_normal(places.size))
    errors = 0.95 * 10 ** (-slope * 8 * places / steps) * noise
    goal = 0.95 * 10 ** (-0.285 * 8)
    first = next((place for place, error in zip(places, errors, strict=True) if error <= goal), None)
    return SchemeRecord(
        *(name, topology, merge, used, steps, steps / rate, rate, used * share, share),
        seconds_to_error=None if first is None or not exact else float(first / rate),
        max_error=float(errors[-1]) if exact else None,
        mean_return=0.983 - 0.001 * index,
        rounds=None if topology in ("serial", "shared") else 305,
        staleness_steps=65536.0 if topology in ("averaged", "partitioned") else None,
        imbalance_before=1.42 if topology == "partitioned" else None,
        imbalance_after=1.03 if topology == "partitioned" else None,
        lost_update_fraction=0.00021 if topology == "shared" else None,
        parked_fraction=0.013 if topology == "partitioned" else None,
        curve=tuple(
            (int(place), float(place / rate), float(error))
            for place, error in zip(places, errors, strict=True)
        )
        if exact
        else (),
        policy=policy,
    )


def make_race(
    layout: GridLayout | None = None, world: str = "Garnet-1000", exact: bool = True, steps: int = 20_000_000
) -> RaceRecord:
    schemes = []
    for index in range(len(SCHEMES)):
        policy = None if layout is None else make_policy(layout, 0.99, 0.01 + 0.02 * index, index)
        schemes.append(make_scheme(index, steps, 2, exact, policy))
    shape = None if layout is None else layout.shape
    num_states = 1000 if shape is None else math.prod(shape)
    return RaceRecord(
        *(world, num_states, 4, 0.99, steps, 2, "threads", 0, shape),
        optimal_return=1.0 if exact else None,
        schemes=tuple(schemes),
    )
