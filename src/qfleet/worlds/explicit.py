"""The jitted functions of a world given in arrays: one for each way of storing what a step may lead to.

A record of `outcomes` is a next state, a reward and, where there are several, the cumulative probability up to
and including it. A next state that ends the episode is stored as ~state: a negative number, which the kernel has
at hand without looking anything up.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import part, prefetch


class Start(NamedTuple):
    """Where episodes begin."""

    states: NDArray[np.int32]
    """Empty: every state."""
    cumulative: NDArray[np.float64]
    """Cumulative probabilities of `states`; empty: all alike."""


class DeterministicParameters(NamedTuple):
    """One outcome a pair."""

    outcomes: NDArray[Any]
    """(num_states * num_actions,) records (next_state, reward)."""
    num_states: int
    num_actions: int
    start: Start
    allowed: NDArray[np.bool_]
    """(num_states * num_actions,); empty: all of them."""


class BranchingParameters(NamedTuple):
    """The same small number of outcomes a pair, filled up with impossible ones."""

    outcomes: NDArray[Any]
    """(num_states * num_actions * branching,) records (next_state, reward, cumulative)."""
    branches: tuple[int, ...]
    """As many as a pair has outcomes: the length of a tuple is known to the compiler, which unrolls the search."""
    num_states: int
    num_actions: int
    start: Start
    allowed: NDArray[np.bool_]


class RaggedParameters(NamedTuple):
    """Any number of outcomes a pair."""

    outcomes: NDArray[Any]
    """Records (next_state, reward, cumulative), pair by pair."""
    offsets: NDArray[np.int64]
    """(num_states * num_actions + 1,): where a pair's outcomes begin."""
    num_states: int
    num_actions: int
    start: Start
    allowed: NDArray[np.bool_]


@part
def step_deterministic(parameters, state, action, random):
    """A step where every pair has one outcome."""
    outcome = parameters.outcomes[state * parameters.num_actions + action]
    return _arrive(outcome.next_state, outcome.reward)


@part
def step_branching(parameters, state, action, random):
    """A step where every pair has the same few outcomes: compares with all of them, without a branch."""
    branching = len(parameters.branches)
    index = (state * parameters.num_actions + action) * branching
    chosen = index
    for branch in range(branching - 1):
        chosen += parameters.outcomes[index + branch].cumulative <= random
    outcome = parameters.outcomes[chosen]
    return _arrive(outcome.next_state, outcome.reward)


@part
def step_ragged(parameters, state, action, random):
    """A step where pairs have any number of outcomes: halves the range until one is left."""
    pair = state * parameters.num_actions + action
    first, count = parameters.offsets[pair], parameters.offsets[pair + 1] - parameters.offsets[pair]
    while count > 1:
        half = count >> 1
        first += half if parameters.outcomes[first + half - 1].cumulative <= random else 0
        count -= half
    outcome = parameters.outcomes[first]
    return _arrive(outcome.next_state, outcome.reward)


@part
def _arrive(next_state, reward):
    """(next state, reward, terminated)."""
    # Takes no record: numba would give the long ones to what it compiled for the short ones.
    stored = np.int64(next_state)
    return stored ^ (stored >> 63), np.float64(reward), stored < 0


@part
def reset(parameters, random):
    """The first state of an episode."""
    start = parameters.start
    if start.states.size == 0:
        return np.int64(random * parameters.num_states)
    if start.cumulative.size == 0:
        return np.int64(start.states[np.int64(random * start.states.size)])
    first, count = 0, start.states.size
    while count > 1:
        half = count >> 1
        first += half if start.cumulative[first + half - 1] <= random else 0
        count -= half
    return np.int64(start.states[first])


@part
def allowed(parameters, state, action):
    """Whether a state has an action."""
    return parameters.allowed[state * parameters.num_actions + action]


@part
def approach_deterministic(parameters, state):
    """Asks for the outcomes of a state."""
    prefetch(parameters.outcomes, state * parameters.num_actions)


@part
def approach_branching(parameters, state):
    """Asks for the outcomes of a state's first actions."""
    prefetch(parameters.outcomes, state * parameters.num_actions * len(parameters.branches))


@part
def approach_ragged(parameters, state):
    """Asks for where the outcomes of a state's actions begin."""
    prefetch(parameters.offsets, state * parameters.num_actions)
