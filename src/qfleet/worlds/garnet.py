"""Garnet: random MDPs of a given size and branching (Archibald, McKinnon and Thomas 1995)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.worlds.options import WorldOptions
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

EPISODE_STEPS = 1000
NUM_ACTIONS = 4
BRANCHING = 5


@dataclass(frozen=True)
class GarnetOptions(WorldOptions):
    """What can be chosen of a Garnet beside its size."""

    seed: int = 0
    """Of the transitions and rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least("seed", 0)


def make_garnet(
    num_states: int, num_actions: int, branching: int, options: GarnetOptions, name: str
) -> World:
    """Garnet-S or Garnet-SxAxB: S states, A actions (4), B next states of each pair (5, or S if that is less).

    The next states are drawn without repetition, their probabilities are the parts of the unit interval cut at
    B - 1 uniform points, and each pair's reward is uniform in [0, 1). It never terminates; episodes begin in any
    state and are truncated after 1000 steps. Raises QfleetError where there are fewer states than branches.
    """
    return garnet_mdp(num_states, num_actions, branching, options, name).world()


def garnet_mdp(num_states: int, num_actions: int, branching: int, options: GarnetOptions, name: str) -> "MDP":
    """The same as an explicit MDP."""
    from qfleet.worlds.mdp import MDP

    if branching > num_states:
        raise QfleetError(f"{name}: {num_states} states have no {branching} different next states")
    random = np.random.default_rng(options.seed)
    num_pairs = num_states * num_actions
    successors = distinct(random, num_pairs, num_states, branching)
    transitions: Any
    if branching == 1:
        transitions = successors.reshape(num_states, num_actions)
    else:
        transitions = _sparse(successors, _parts(random, num_pairs, branching), num_states)
    return MDP.from_arrays(
        transitions,
        random.random((num_states, num_actions)),
        max_episode_steps=options.max_episode_steps or EPISODE_STEPS,
        name=name,
    )


def distinct(random: np.random.Generator, num_rows: int, bound: int, count: int) -> NDArray[np.int32]:
    """(num_rows, count): numbers below `bound`, none twice in a row, every such set as likely (Floyd's algorithm)."""
    drawn = np.empty((num_rows, count), np.int32)
    for column, last in enumerate(range(bound - count, bound)):
        number = random.integers(0, last, num_rows, np.int32, endpoint=True)
        is_taken = (drawn[:, :column] == number[:, None]).any(axis=1)
        drawn[:, column] = np.where(is_taken, last, number)
    return drawn


def _parts(random: np.random.Generator, num_rows: int, count: int) -> NDArray[np.float64]:
    """(num_rows, count): the lengths of the parts of the unit interval cut at count - 1 uniform points."""
    cuts = np.sort(random.random((num_rows, count - 1)), axis=1)
    return np.diff(cuts, axis=1, prepend=0.0, append=1.0)


def _sparse(successors: NDArray[np.int32], chances: NDArray[np.float64], num_states: int) -> Any:
    """(rows, num_states) in CSR form."""
    from scipy import sparse

    num_rows, branching = successors.shape
    ends = np.arange(0, num_rows * branching + 1, branching)
    matrix = sparse.csr_matrix(
        (chances.ravel(), successors.ravel(), ends), shape=(num_rows, num_states), copy=False
    )
    matrix.sort_indices()
    return matrix
