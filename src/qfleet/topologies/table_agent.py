"""Asynchronous for tables: agents with a table and a target table of their own, and one replay of transitions.

Q_i(s, a) <- Q_i(s, a) + eta (r + discount * max over a' of Q_i'(s', a') - Q_i(s, a)) for every transition of a
minibatch from the shared replay; Q_i' is the agent's target table, which follows its own by copies or softly.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np

from qfleet.deep.members import worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.errors import QfleetError
from qfleet.fleet import Answer
from qfleet.tabular.learner import Task
from qfleet.tabular.transitions import Transitions, learn_minibatches
from qfleet.topologies.asynchronous import Agent, AgentsRun
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.replay_service import Learned
from qfleet.topologies.table_team import new_table
from qfleet.topologies.transition_replay import TransitionReplay

_LEAST_TARGET_UPDATES = 100


@dataclass(frozen=True)
class TableAsynchronousConfig:
    """How agents take turns at acting and learning, what they learn from, and how their targets follow."""

    block_steps: int = 4096
    """Steps of an agent between two turns of learning."""
    batch_size: int = 32
    """Transitions of an update."""
    updates_per_step: float = 0.25
    """Updates of an agent for each of its steps."""
    replay_capacity: int = 1_000_000
    """Transitions that the shared replay keeps, the newest."""
    target_update_every_updates: int = 0
    """Updates between two moves of an agent's target table; 0: once for a transition an entry, at least 100."""
    target_update_rate: float = 1.0
    """How far it moves: 1 copies."""
    stall_timeout_seconds: float = 60.0
    """A member that is silent for longer is lost."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "block_steps", "batch_size", "replay_capacity")
        refuse_below(self, 0, "target_update_every_updates")
        for name, most in (("updates_per_step", 1000), ("target_update_rate", 1)):
            if not 0 < getattr(self, name) <= most:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be above 0 and at most {most}")
        refuse_no_patience(self)

    def updates_due(self, num_steps: int) -> int:
        """Of an agent after so many steps."""
        return int(num_steps * self.updates_per_step)

    def target_every(self, task: Task) -> int:
        """Updates between two moves of a target table."""
        entries = task.world.num_states * task.world.num_actions
        return self.target_update_every_updates or max(_LEAST_TARGET_UPDATES, entries // self.batch_size)


def agents_of_table(task: Task, config: TableAsynchronousConfig) -> AgentsRun:
    """Tables, with a replay of transitions."""
    initial = np.full(int(np.prod(task.shape)), task.initial_value, task.dtype)
    return AgentsRun(
        partial(TableAgent, task, config),
        partial(TransitionReplay, min(config.replay_capacity, task.total_steps), task.seed),
        Parameters(0, initial),
        config.block_steps,
        config.batch_size,
        config.updates_due,
        task.total_steps,
        task.num_workers,
    )


@dataclass(frozen=True)
class WalkedReport:
    """What a block of acting brought, but for the transitions."""

    num_steps: int
    num_episodes: int
    returns: tuple[float, ...]
    """The mean of the episodes that ended, once."""
    lengths: tuple[float, ...]


@final
class TableAgent(Agent):
    """Walkers, a table, and a target table."""

    def __init__(self, task: Task, config: TableAsynchronousConfig, rank: int, incarnation: int) -> None:
        if incarnation:
            task = replace(task, seed=worker_seed(task.seed, rank, incarnation))
        self._config, self._target_every = config, config.target_every(task)
        self._table = task.make_table(new_table(task, task.shape, rank))
        self._target = self._table.values.copy()
        self._learner = task.make_learner(rank, self._table)
        self._num_updates = 0

    def start(self) -> None:
        """Compiles, and begins the first episodes."""
        self._learner.begin()
        self._learner.admit()
        self._learner.act(0)
        self._learn(Transitions.empty(0))

    def answer(self) -> None:
        """It is there."""

    def act(self, max_steps: int) -> Answer:
        """A block by its own table: tells a WalkedReport, and gives the transitions."""
        made, transitions = self._learner.act(max_steps)
        return Answer(WalkedReport(made.steps, made.episodes, *made.means()), transitions)

    def begin_anew(self) -> int:
        """Nothing: every transition is whole by itself."""
        return 0

    def learn(self, sample: Transitions | None, importance_exponent: float) -> Learned:
        """An update from every minibatch."""
        if sample is None:
            return Learned(0, self._num_updates)
        # Copies: kernels would be compiled once more for what is read-only.
        drawn = Transitions._make(part if part.flags.writeable else part.copy() for part in sample)
        made = len(drawn.state) // self._config.batch_size
        mean_error = self._learn(drawn) / len(drawn.state)
        self._num_updates += made
        return Learned(made, self._num_updates, statistics={"train/td_error": mean_error})

    def _learn(self, drawn: Transitions) -> float:
        """The sum of |target - Q(s, a)|."""
        config, learner = self._config, self._learner
        how = (config.batch_size, self._target_every, config.target_update_rate, self._num_updates)
        return learn_minibatches(learner.program, learner.work(), self._target, drawn, *how)

    def parameters(self) -> Parameters:
        """Its table."""
        return Parameters(self._num_updates, self._table.values.reshape(-1).copy())

    def set_parameters(self, parameters: Parameters) -> None:
        """The target table begins with them, too."""
        self._table.values.reshape(-1)[:] = parameters.vector
        self._target[:] = self._table.values

    def save_state(self) -> Answer:
        """Tells of tables and walkers; there are no transitions to give."""
        state = {
            "values": self._table.values.copy(),
            "target": self._target.copy(),
            "updates": self._num_updates,
            "learner": self._learner.save_state(),
        }
        return Answer(state, Transitions.empty(0))

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._table.values[:], self._target[:] = state["values"], state["target"]
        self._num_updates = state["updates"]
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """There is nothing to free."""
