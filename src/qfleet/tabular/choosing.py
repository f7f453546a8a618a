"""Which action a walker takes: epsilon-greedy, Boltzmann or uniform, among the actions that the state has."""

from typing import Any

import numpy as np

from qfleet.kernels import part
from qfleet.tabular.program import Program, dispatched
from qfleet.worlds.world import FUNCTIONS

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@part
def unit(bits):
    """A uniform float64 in [0, 1) from 64 random bits."""
    return np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@part
def upper_unit(bits):
    """A uniform float64 in [0, 1) from the upper 32 bits, independent of what is drawn from the lower ones."""
    return np.float64(bits >> _HALF) * (1.0 / 4294967296.0)


@part
def below(bits, bound):
    """A whole number in [0, bound) from the lower 32 bits."""
    return np.int64(((bits & _LOW) * np.uint64(bound)) >> _HALF)


@dispatched(lambda program: _value_single if program.rule != "double-q-learning" else _value_double)
def value(program, work, row, action) -> Any:
    """What the behaviour goes by: the table's value, with two tables their mean, to which a temperature applies."""
    raise NotImplementedError


def _value_single(program, work, row, action):
    return work.table.values[0, row, action]


def _value_double(program, work, row, action):
    return 0.5 * (work.table.values[0, row, action] + work.table.values[1, row, action])


@dispatched(lambda program: _has_of(program))
def has(program, parameters, state, action) -> Any:
    """Whether a state has an action."""
    raise NotImplementedError


def _has_of(program: Program) -> Any:
    function = FUNCTIONS[program.world][2]
    if not program.masked:
        return lambda program, parameters, state, action: True
    return lambda program, parameters, state, action: function(parameters, state, action)


@part
def allowed(program, work, state, action):
    """Whether a state has an action."""
    return has(program, work.parameters, state, action)


@dispatched(lambda program: _any_masked if program.masked else _any_unmasked)
def any_action(program, work, state, bits) -> Any:
    """One of the state's actions, uniform, from the lower 32 bits."""
    raise NotImplementedError


def _any_unmasked(program, work, state, bits):
    return below(bits, work.constants.num_actions)


def _any_masked(program, work, state, bits):
    count = 0
    for action in range(work.constants.num_actions):
        count += allowed(program, work, state, action)
    left = below(bits, count)
    for action in range(work.constants.num_actions):
        if allowed(program, work, state, action):
            if left == 0:
                return np.int64(action)
            left -= 1
    return np.int64(0)


@part
def exploration_rate(work, age):
    """Epsilon of a walker of some age: linear from initial to final."""
    share = min(age / work.constants.exploration_steps, 1.0)
    return (
        work.constants.exploration_initial
        + (work.constants.exploration_final - work.constants.exploration_initial) * share
    )


@part
def greedy(program, work, state, row, incumbent):
    """The best action and its value; among equals the incumbent, if it is one of them, else the first.

    With a random incumbent no action that is best among several is left untried.
    """
    chosen, best = incumbent, value(program, work, row, incumbent)
    for action in range(work.constants.num_actions):
        candidate = value(program, work, row, action)
        better = (candidate > best) and allowed(program, work, state, action)
        best = candidate if better else best
        chosen = action if better else chosen
    return chosen, best


@dispatched(lambda program: _CHOOSE[program.exploration])
def choose(program, work, state, row, bits, age) -> Any:
    """The action to take in a state, and the greedy value there: (int64, float)."""
    raise NotImplementedError


def _choose_epsilon_greedy(program, work, state, row, bits, age):
    explored = any_action(program, work, state, bits)
    chosen, best = greedy(program, work, state, row, explored)
    return (explored if upper_unit(bits) < exploration_rate(work, age) else chosen), best


def _choose_uniform(program, work, state, row, bits, age):
    explored = any_action(program, work, state, bits)
    _, best = greedy(program, work, state, row, explored)
    return explored, best


def _choose_boltzmann(program, work, state, row, bits, age):
    explored = any_action(program, work, state, bits)
    chosen, best = greedy(program, work, state, row, explored)
    left = unit(bits) * partition_sum(program, work, state, row, best)
    for action in range(work.constants.num_actions):
        if allowed(program, work, state, action):
            chosen = np.int64(action)
            left -= np.exp((value(program, work, row, action) - best) / work.constants.temperature)
            if left < 0:
                break
    return chosen, best


_CHOOSE = {
    "epsilon-greedy": _choose_epsilon_greedy,
    "uniform": _choose_uniform,
    "boltzmann": _choose_boltzmann,
}


@part
def partition_sum(program, work, state, row, best):
    """Sum of exp((Q - best) / temperature) over the state's actions."""
    total = 0.0
    for action in range(work.constants.num_actions):
        if allowed(program, work, state, action):
            total += np.exp((value(program, work, row, action) - best) / work.constants.temperature)
    return total


@dispatched(lambda program: _EXPECTED[program.exploration])
def expected(program, work, state, row, best, age) -> Any:
    """The value of a state under the behaviour policy: sum of pi(a|s) Q(s, a)."""
    raise NotImplementedError


def _expected_epsilon_greedy(program, work, state, row, best, age):
    epsilon = exploration_rate(work, age)
    return (1 - epsilon) * best + epsilon * _mean(program, work, state, row)


def _expected_uniform(program, work, state, row, best, age):
    return _mean(program, work, state, row)


def _expected_boltzmann(program, work, state, row, best, age):
    total, weighted = 0.0, 0.0
    for action in range(work.constants.num_actions):
        if allowed(program, work, state, action):
            q = value(program, work, row, action)
            weight = np.exp((q - best) / work.constants.temperature)
            total += weight
            weighted += weight * q
    return weighted / total


_EXPECTED = {
    "epsilon-greedy": _expected_epsilon_greedy,
    "uniform": _expected_uniform,
    "boltzmann": _expected_boltzmann,
}


@part
def _mean(program, work, state, row):
    total, count = 0.0, 0
    for action in range(work.constants.num_actions):
        if allowed(program, work, state, action):
            total += value(program, work, row, action)
            count += 1
    return total / count
