"""What a table learns by: one config for every tabular rule."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from qfleet.errors import QfleetError
from qfleet.tabular.program import Exploration, RateSchedule, Rule

TableType = Literal["float64", "float32"]


@dataclass(frozen=True)
class TabularConfig:
    """How a table's values begin and change."""

    discount: float = 0.99
    """Weight of the next state's value; 1 only for environments whose episodes surely terminate."""
    learning_rate: float | None = None
    """Step size of the updates, the factor of other schedules than constant; unset: 0.1, and 1 with the others."""
    learning_rate_schedule: RateSchedule = "constant"
    """constant; visits: 1 / N^omega; rescaled-linear: 1 / (1 + (1 - discount) (N - 1)), for N updates of the pair."""
    learning_rate_exponent: float = 0.8
    """omega of the schedule visits, above 0.5 and at most 1."""
    exploration: Exploration = "epsilon-greedy"
    """How actions are chosen while learning."""
    exploration_initial: float = 1.0
    """Epsilon at the first step."""
    exploration_final: float = 0.05
    """Epsilon from exploration_steps on."""
    exploration_steps: int = 0
    """Steps over which epsilon falls, in a straight line; 0: half of --steps."""
    temperature: float = 1.0
    """Of Boltzmann exploration: values this far apart differ by a factor of e in probability."""
    initial_value: float = 0.0
    """Every value at the beginning; above what can be reached, it makes the agent try everything."""
    table_type: TableType = "float64"
    """Precision of the table."""
    walkers: int = 0
    """Episodes that each worker plays at the same time; 0: as many as states, from 16 to 4096."""
    n_step: int = 5
    """Steps of a tree-backup return."""
    trace_decay: float = 0.9
    """lambda of watkins-q-lambda."""

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("discount", 0.0, 1.0),
            ("exploration_initial", 0.0, 1.0),
            ("exploration_final", 0.0, 1.0),
            ("trace_decay", 0.0, 1.0),
        ):
            if not lowest <= getattr(self, name) <= highest:
                raise QfleetError(
                    f"{name} is {getattr(self, name)}; it must be from {lowest:g} to {highest:g}"
                )
        if not 0 < self.step_size <= 1:
            raise QfleetError(f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1")
        if not 0.5 < self.learning_rate_exponent <= 1:
            raise QfleetError(
                f"learning_rate_exponent is {self.learning_rate_exponent}; it must be above 0.5 and at most 1"
            )
        if not self.temperature > 0:
            raise QfleetError(f"temperature is {self.temperature}; it must be above 0")
        if not math.isfinite(self.initial_value):
            raise QfleetError(f"initial_value is {self.initial_value}; it must be finite")
        for name, least in (("exploration_steps", 0), ("walkers", 0), ("n_step", 1)):
            if getattr(self, name) < least:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name, known in (
            ("learning_rate_schedule", get_args(RateSchedule)),
            ("exploration", get_args(Exploration)),
            ("table_type", get_args(TableType)),
        ):
            if getattr(self, name) not in known:
                raise QfleetError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """Raises QfleetError for a setting that the others leave without effect."""
        defaults = {item: getattr(type(self), item) for item in ("learning_rate_exponent", "temperature")}
        for name, needed, given in (
            (
                "learning_rate_exponent",
                "learning_rate_schedule visits",
                self.learning_rate_schedule == "visits",
            ),
            ("temperature", "exploration boltzmann", self.exploration == "boltzmann"),
        ):
            if not given and getattr(self, name) != defaults[name]:
                raise QfleetError(f"{name} {getattr(self, name)} has an effect only with {needed}")

    def refuse_for(self, rule: Rule) -> None:
        """Raises QfleetError for a setting that belongs to another rule."""
        for name, owner in (("n_step", "tree-backup"), ("trace_decay", "watkins-q-lambda")):
            if rule != owner and getattr(self, name) != getattr(type(self), name):
                raise QfleetError(f"{name} belongs to the algorithm {owner}; this run's is {rule}")

    @property
    def step_size(self) -> float:
        """The constant learning rate, or the factor of another schedule."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.1 if self.learning_rate_schedule == "constant" else 1.0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the table."""
        return np.dtype(self.table_type)

    def num_walkers(self, num_states: int) -> int:
        """Walkers of each worker."""
        if self.walkers:
            return self.walkers
        return min(max(num_states, 16), 4096)

    def exploration_span(self, total_steps: int) -> int:
        """Steps over which epsilon falls."""
        return self.exploration_steps or max(1, total_steps // 2)

    def exploration_rate(self, steps: int, total_steps: int) -> float:
        """Epsilon after some steps of all workers."""
        if self.exploration == "uniform":
            return 1.0
        share = min(1.0, steps / self.exploration_span(total_steps))
        return self.exploration_initial + (self.exploration_final - self.exploration_initial) * share

    def history_length(self, rule: Rule) -> int:
        """Steps that a walker remembers; a trace ends where it has decayed below a millionth."""
        if rule == "tree-backup":
            return self.n_step
        if rule != "watkins-q-lambda":
            return 1
        decay = self.discount * self.trace_decay
        return (
            1
            if decay == 0
            else 1000
            if decay >= 1
            else min(1000, math.ceil(math.log(1e-6) / math.log(decay)))
        )
