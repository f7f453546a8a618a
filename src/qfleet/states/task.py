"""What workers learn that step their environments in Python."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.single import EnvironmentSource, SingleEnvironment, SingleFactory
from qfleet.errors import QfleetError
from qfleet.states.config import StatesConfig
from qfleet.states.encoder import StateEncoder, make_encoder, needs_play, quantile_knots
from qfleet.states.environments import played_values, single_factory
from qfleet.states.learner import PythonLearner
from qfleet.states.observing import WORLD
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import FOREVER, fair_round_steps, make_constants
from qfleet.tabular.program import Program, Rule
from qfleet.tabular.records import Constants, Table
from qfleet.tabular.support import SUPPORTED


@final
@dataclass(frozen=True, eq=False)
class PythonTask:
    """A LearningTask over environments stepped in Python; as picklable as the source of its environments."""

    factory: SingleFactory
    """Makes each environment, where its worker lives."""
    encoder: StateEncoder
    """The same for all workers and for a resumed run: its state belongs into checkpoints."""
    num_actions: int
    rule: Rule
    config: TabularConfig
    seed: int
    total_steps: int
    """Steps of the whole run, which exploration schedules refer to."""
    num_workers: int = 1

    @property
    def walkers_per_worker(self) -> int:
        """Environments of each worker: one, as steps in Python gain nothing by being interleaved."""
        return self.config.walkers or 1

    @property
    def num_walkers(self) -> int:
        """Those of all workers."""
        return self.walkers_per_worker * self.num_workers

    @property
    def num_tables(self) -> int:
        """2 for double Q-learning, else 1."""
        return 2 if self.rule == "double-q-learning" else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole table: (num_tables, states or tiles, num_actions)."""
        return self.num_tables, self.encoder.num_rows, self.num_actions

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the table."""
        return self.config.dtype

    @property
    def counts_visits(self) -> bool:
        """Whether updates are counted for every pair."""
        return self.config.learning_rate_schedule != "constant"

    @property
    def can_pause_anywhere(self) -> bool:
        """Environments whose state cannot be had begin new episodes."""
        return False

    @property
    def initial_value(self) -> float:
        """What every entry of the table begins with: with tiles each tiling's share of the initial value."""
        return self.config.initial_value / max(1, self.encoder.num_tilings)

    @property
    def round_steps(self) -> int:
        """See `fair_round_steps`."""
        return fair_round_steps(self.shape)

    def make_table(
        self, values: NDArray[Any], *, weighted: bool = False, visits: NDArray[np.uint32] | None = None
    ) -> Table:
        """A table around values (num_tables, rows, num_actions) that exist."""
        if visits is None:
            visits = np.zeros(values.shape if self.counts_visits else (0, 0, 0), np.uint32)
        return Table(values, visits, np.zeros(values.shape if weighted else (0, 0, 0), np.float64))

    def make_learner(self, worker: int, table: Table, *, weighted: bool = False) -> PythonLearner:
        """The learner of one worker."""
        return PythonLearner(self, worker, table, weighted=weighted)

    def constants(self) -> Constants:
        """The kernels' numbers; with tiles the learning rate is that of each tile."""
        span = self.config.exploration_span(self.total_steps) / self.num_walkers
        share = self.config.step_size / max(1, self.encoder.num_tilings)
        config = replace(self.config, learning_rate=share)
        return make_constants(config, self.rule, self.encoder.num_rows, self.num_actions, span, FOREVER)

    def program(self, *, weighted: bool) -> Program:
        """What the kernels are compiled for."""
        return Program(
            world=WORLD,
            rule=self.rule,
            exploration=self.config.exploration,
            rate=self.config.learning_rate_schedule,
            masked=True,
            weighted=weighted,
            rows="whole",
            prefetched=False,
        )


def make_python_task(
    source: EnvironmentSource,
    states: StatesConfig,
    rule: Rule,
    config: TabularConfig,
    seed: int,
    total_steps: int,
    num_workers: int = 1,
    encoder_state: Mapping[str, Any] | None = None,
) -> PythonTask:
    """Looks at one environment and, where borders of bins are to be found and `encoder_state` has none, plays in it.

    Raises QfleetError for an environment, a rule or settings that do not go together.
    """
    factory = single_factory(source, states)
    if states.tilings and rule not in SUPPORTED["tiles"]:
        raise QfleetError(f"{rule} does not work with tile coding; {', '.join(SUPPORTED['tiles'])} do")
    if factory.is_object and (config.walkers or 1) * num_workers > 1:
        raise QfleetError(
            f"{(config.walkers or 1) * num_workers} environments of one object {factory.name} cannot be; hand in a "
            "function that makes one"
        )
    single = factory.make()
    try:
        encoder = _encoder(single, states, seed, encoder_state)
    finally:
        if not factory.is_object:
            single.env.close()
    return PythonTask(factory, encoder, single.num_actions, rule, config, seed, total_steps, num_workers)


def _encoder(
    single: SingleEnvironment, states: StatesConfig, seed: int, state: Mapping[str, Any] | None
) -> StateEncoder:
    if single.frame_stack > 1:
        raise QfleetError(
            f"{single.name} stacks {single.frame_stack} frames; a table sees one observation at a time"
        )
    space = single.env.observation_space
    if not state and states.discretize and needs_play(space, states):
        state = {"knots": quantile_knots(played_values(single, seed), states.discretize)}
    return make_encoder(space, states, state, single.name)
