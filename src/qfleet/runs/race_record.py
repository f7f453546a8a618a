"""What a race of parallel schemes measured, as plain data that survives JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

from qfleet.errors import QfleetError
from qfleet.runs.policy_map import PolicyMap

CurvePoint = tuple[int, float, float]
"""(steps, seconds, max_error)."""


@final
@dataclass(frozen=True)
class SchemeRecord:
    """One contestant: how fast it was, how near it came to the exact solution, what its workers exchanged."""

    name: str
    """As the report calls it: serial, shared, averaged (equal), averaged (visits), partitioned."""
    topology: str
    """serial, shared, averaged or partitioned."""
    merge: str | None
    """equal or visits; None where nothing is merged."""
    workers: int
    """How many learned at the same time."""
    steps: int
    """Environment steps, of all workers together."""
    seconds: float
    """Wall-clock time of these steps; compiling and measuring are not in it."""
    steps_per_second: float
    """The rate of all workers together."""
    speed_up: float
    """That rate divided by serial's."""
    efficiency: float
    """Speed-up divided by workers."""
    seconds_to_error: float | None
    """Time until the error that serial ended with; None: never within the race."""
    max_error: float | None
    """Largest |Q − Q*| at the end; None where the exact solution is not known."""
    mean_return: float | None
    """Of the greedy policy; None: not evaluated."""
    rounds: int | None = None
    """How often the workers exchanged values."""
    staleness_steps: float | None = None
    """Steps that others make between two exchanges: (K - 1) / K of a mean round's; 0: all is seen at once."""
    imbalance_before: float | None = None
    """Busiest worker's share of updates over the mean share, under the first cut; 1 is even."""
    imbalance_after: float | None = None
    """The same under the last cut."""
    lost_update_fraction: float | None = None
    """Estimated share of updates that another worker's write undid."""
    parked_fraction: float | None = None
    """Share of the walkers that wait across a border when a round ends, the mean over rounds."""
    curve: tuple[CurvePoint, ...] = ()
    """The error during the race; empty where the exact solution is not known."""
    policy: PolicyMap | None = None
    """The greedy policy at the end; for gridworlds."""


@final
@dataclass(frozen=True)
class RaceRecord:
    """The same world and number of steps for every scheme."""

    world: str
    """Its name."""
    num_states: int
    """Rows of the table."""
    num_actions: int
    """Columns of the table."""
    discount: float
    """γ."""
    steps: int
    """Environment steps each scheme was given."""
    workers: int
    """K, of the parallel schemes."""
    backend: str
    """threads or processes."""
    seed: int
    """Of all random numbers."""
    grid_shape: tuple[int, int] | None
    """(rows, columns) of a gridworld."""
    optimal_return: float | None
    """The best possible expected return of an episode; None: not known."""
    schemes: tuple[SchemeRecord, ...]
    """In the order of the race; serial is what the others are compared with."""
    is_complete: bool = True
    """Whether all schemes were finished; else the race was interrupted."""

    @property
    def serial(self) -> SchemeRecord | None:
        """The reference, where it took part."""
        return next((scheme for scheme in self.schemes if scheme.topology == "serial"), None)


def race_to_json(record: RaceRecord) -> dict[str, Any]:
    """A tree that strict JSON can hold: numbers that are not finite are the strings NaN, Infinity, -Infinity."""
    return _to_json(asdict(record))


def race_from_json(document: Mapping[str, Any]) -> RaceRecord:
    """What `race_to_json` was given. Raises QfleetError where the document is no record of a race."""
    try:
        values = _read(RaceRecord, document)
        shape = values["grid_shape"]
        values["grid_shape"] = None if shape is None else (int(shape[0]), int(shape[1]))
        values["schemes"] = tuple(_scheme(scheme) for scheme in document["schemes"])
        return RaceRecord(**values)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise QfleetError(
            f"this is no record of a race ({error}): make it with qfleet race --json"
        ) from error


def _scheme(document: Mapping[str, Any]) -> SchemeRecord:
    values = _read(SchemeRecord, document)
    points = values["curve"]
    values["curve"] = tuple((int(steps), float(seconds), float(error)) for steps, seconds, error in points)
    policy = values["policy"]
    values["policy"] = None if policy is None else PolicyMap(**_tuples(_read(PolicyMap, policy)))
    return SchemeRecord(**values)


def _read(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document's values by the names of `kind`'s fields: all of them, and no others."""
    names = {field.name for field in fields(kind)}
    if names != set(document):
        raise ValueError(f"{kind.__name__}: {', '.join(sorted(names ^ set(document)))} missing or unknown")
    return {name: _number(value) for name, value in document.items()}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(map(_number, value)) if isinstance(value, list | tuple) else value
        for name, value in values.items()
    }


def _number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
