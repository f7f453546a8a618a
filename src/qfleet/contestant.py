"""One scheme of a race: trained in turns of which only the training is timed."""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.assembly import Problem, make_fleet
from qfleet.choices import TopologyName
from qfleet.evaluation import FINAL, evaluation_seed
from qfleet.exact_solution import ExactSolution
from qfleet.interruption import Interruption
from qfleet.runs.policy_map import GridLayout, PolicyMap, policy_map
from qfleet.runs.race_record import CurvePoint, SchemeRecord
from qfleet.table_assembly import make_subject, make_topology
from qfleet.table_values import greedy_actions
from qfleet.topologies.averaged import Merge
from qfleet.topologies.table_learning import RoundsReport

_NUM_POINTS = 40
_LONGEST_TURN_STEPS = 2**25
"""So that an interruption is noticed within a second or so."""


@final
@dataclass(frozen=True)
class Scheme:
    """One way to share the work."""

    name: str
    """As the report calls it."""
    topology: TopologyName
    merge: Merge | None = None


SCHEMES = (
    Scheme("serial", "serial"),
    Scheme("shared", "shared"),
    Scheme("averaged (equal)", "averaged", "equal"),
    Scheme("averaged (visits)", "averaged", "visits"),
    Scheme("partitioned", "partitioned"),
)


def curve_steps(total_steps: int) -> list[int]:
    """Where the error is measured: closer together at the beginning, where most happens."""
    return sorted({max(1, total_steps * i * i // _NUM_POINTS**2) for i in range(1, _NUM_POINTS + 1)})


@final
class Contestant:
    """A scheme's workers; enter it to start them, leave it to end them."""

    def __init__(self, scheme: Scheme, problem: Problem, exact: ExactSolution | None) -> None:
        self.scheme, self.problem, self._exact = scheme, problem, exact
        self._subject = make_subject(problem)
        self._stack = ExitStack()
        self._reports: list[RoundsReport] = []
        self._num_rounds = 0
        self.seconds = 0.0
        """Spent training."""
        self.curve: list[CurvePoint] = []
        """The errors so far; empty where the exact solution is not known."""

    def __enter__(self) -> "Contestant":
        fleet = self._stack.enter_context(closing(make_fleet(self.problem)))
        self._topology = self._stack.enter_context(
            closing(make_topology(self.problem, self._subject.task, fleet))
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def prepare(self) -> None:
        """Starts the workers and compiles; then measures the error there is before any step."""
        self._topology.prepare()
        self.measure()

    @property
    def num_steps(self) -> int:
        """Environment steps of all workers."""
        return self._topology.num_steps

    @property
    def error(self) -> float | None:
        """As measured last; None where the exact solution is not known."""
        return self.curve[-1][2] if self.curve else None

    def advance(self, until_steps: int) -> None:
        """Trains, not too long at a time, towards `until_steps` steps; only this is timed."""
        started = time.perf_counter()
        self._reports = self._topology.advance(min(until_steps, self.num_steps + _LONGEST_TURN_STEPS))
        self.seconds += time.perf_counter() - started
        self._num_rounds += self._reports[0].rounds

    def measure(self) -> None:
        """Adds a point to the curve, if there is anything new since the last one."""
        if self._exact is not None and not (self.curve and self.curve[-1][0] == self.num_steps):
            self.curve.append((self.num_steps, self.seconds, self._exact.error(self._values())))

    def _values(self) -> NDArray[Any]:
        """(num_states, num_actions): the table; of two their mean."""
        tables = self._topology.values()
        return tables[0] if len(tables) == 1 else (tables[0] + tables[1]) / 2

    def record(self, interruption: Interruption, layout: GridLayout | None) -> SchemeRecord | None:
        """All that needs no comparison with serial; None if interrupted during the greedy episodes."""
        run, values = self.problem.settings.run, self._values()
        seed = evaluation_seed(run.seed, FINAL, 0)
        played = self._subject.play(values, run.final_episodes, seed, interruption.__bool__)
        if played is None:
            return None
        measured = self._measured()
        return SchemeRecord(
            name=self.scheme.name,
            topology=self.scheme.topology,
            merge=self.scheme.merge,
            workers=run.workers,
            steps=self.num_steps,
            seconds=self.seconds,
            steps_per_second=self.num_steps / self.seconds,
            speed_up=1.0,
            efficiency=1.0,
            seconds_to_error=None,
            max_error=self.error,
            mean_return=played.mean,
            rounds=self._num_rounds if self._has_rounds else None,
            staleness_steps=self._staleness(),
            imbalance_before=measured.get("imbalance_before"),
            imbalance_after=measured.get("imbalance_after"),
            lost_update_fraction=measured.get("lost_update_fraction"),
            parked_fraction=measured.get("parked_fraction"),
            curve=tuple(self.curve),
            policy=self._policy(values, layout),
        )

    @property
    def _has_rounds(self) -> bool:
        return self.scheme.topology in ("averaged", "partitioned")

    def _staleness(self) -> float | None:
        """Steps that a worker's others make between two exchanges: (K - 1) / K of a mean round's steps.

        Shared tables have none: every write is seen at once. None for serial, which has no others.
        """
        if self.scheme.topology == "shared":
            return 0.0
        workers = self.problem.settings.run.workers
        return (workers - 1) * self.num_steps / self._num_rounds / workers if self._has_rounds else None

    def _measured(self) -> dict[str, float]:
        """What the topology measures, the mean over its workers."""
        names = self._reports[0].extras
        return {name: float(np.mean([report.extras[name] for report in self._reports])) for name in names}

    def _policy(self, values: NDArray[Any], layout: GridLayout | None) -> PolicyMap | None:
        if layout is None:
            return None
        allowed = None if self._exact is None else self._exact.mdp.allowed
        chosen = greedy_actions(values, allowed)
        return policy_map(np.take_along_axis(values, chosen[:, None], axis=1)[:, 0], chosen, layout)


def compared(scheme: SchemeRecord, serial: SchemeRecord, rounding_error: float) -> SchemeRecord:
    """The scheme with what only the comparison with serial says.

    Serial's error counts as reached once it is no larger than what rounding leaves of any table's, too.
    """
    speed_up = scheme.steps_per_second / serial.steps_per_second
    reached = None
    if serial.max_error is not None:
        goal = max(serial.max_error, rounding_error)
        reached = next((seconds for _, seconds, error in scheme.curve if error <= goal), None)
    return replace(scheme, speed_up=speed_up, efficiency=speed_up / scheme.workers, seconds_to_error=reached)
