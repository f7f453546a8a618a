"""Learners for the proofs, and how far they are from the exact solution."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qfleet.exact_solution import ExactSolution
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.exact import PolicyRule
from qfleet.tabular.learner import TableLearner, Task
from qfleet.tabular.program import Rule
from qfleet.worlds.mdp import MDP

RULES: Sequence[Rule] = (
    "q-learning",
    "double-q-learning",
    "sarsa",
    "expected-sarsa",
    "tree-backup",
    "watkins-q-lambda",
)

AT_BORDERS: Sequence[Rule] = ("double-q-learning", "sarsa")
"""Rules that tell others most across a border; for those that tell a maximum the soak compiles kernels, too."""

CONFIG = TabularConfig(
    discount=0.9,
    learning_rate=1.0,
    learning_rate_schedule="rescaled-linear",
    exploration_initial=0.3,
    exploration_final=0.3,
    walkers=32,
)
"""What most proofs learn with: few different kernels, since each takes seconds to compile."""


def make_learner(
    mdp: MDP,
    rule: Rule,
    config: TabularConfig = CONFIG,
    seed: int = 0,
    total_steps: int = 1,
    initial: NDArray[np.floating] | None = None,
    prefetched: bool = False,
) -> TableLearner:
    """A learner that has begun; `initial` is (num_tables, num_states, num_actions).

    `prefetched` makes it ask for memory ahead, which it would else do for large tables alone.
    """
    task = Task(mdp.world(), rule, config, seed, total_steps)
    values = np.full(task.shape, config.initial_value, task.dtype) if initial is None else initial.copy()
    learner = task.make_learner(0, task.make_table(values))
    learner.program = replace(learner.program, prefetched=prefetched)
    learner.start()
    return learner


def learned(mdp: MDP, rule: Rule, steps: int, config: TabularConfig = CONFIG, seed: int = 0) -> TableLearner:
    """The learner after some steps."""
    learner = make_learner(mdp, rule, config, seed, steps)
    assert learner.advance(steps).steps == steps
    return learner


def exact_solution(mdp: MDP, discount: float, policy: PolicyRule) -> ExactSolution:
    """The fixed point of a policy that follows from its own values."""
    values = mdp.fixed_point(discount, policy)
    return ExactSolution(mdp, values, np.isfinite(values) & mdp.reachable()[:, None])


def max_error(learner: TableLearner, policy: PolicyRule, mdp: MDP) -> float:
    """Of the mean of the learner's tables."""
    solution = exact_solution(mdp, learner.task.config.discount, policy)
    return solution.error(learner.table.values.mean(axis=0))


def at_epsilon(epsilon: float, config: TabularConfig = CONFIG) -> TabularConfig:
    """The same at a fixed epsilon."""
    return replace(config, exploration_initial=epsilon, exploration_final=epsilon)
