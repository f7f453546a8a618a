"""Exact solutions of MDPs in arrays: what the learned values are measured against.

Values are swept in place (Gauss-Seidel), forwards and backwards in turn, so that they travel through a chain of
states in one sweep, whichever way it is numbered (Bertsekas, Dynamic Programming and Optimal Control, vol. II).
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.kernels import borrowing_kernel, part

MAX_BACKUPS = 2_000_000_000
"""Outcomes looked at in optimal_return before it gives up: some seconds."""

_CALL_BACKUPS = 50_000_000
_STALLED_SWEEPS = 16

_GREEDY, _EPSILON_GREEDY, _BOLTZMANN, _GIVEN = range(4)


class Model(NamedTuple):
    """An MDP as the kernels read it."""

    next_state: NDArray[np.int32]
    """(outcomes,), pair by pair; ~state where the episode ends."""
    reward: NDArray[np.floating]
    """(outcomes,)"""
    cumulative: NDArray[np.float64]
    """(outcomes,) probabilities up to and including each; empty where pairs have one outcome."""
    offsets: NDArray[np.int64]
    """(pairs + 1,) where a pair's outcomes begin; empty where all have `branching` of them."""
    branching: int
    allowed: NDArray[np.bool_]
    """(pairs,); empty: all."""
    num_states: int
    num_actions: int


@dataclass(frozen=True)
class EpsilonGreedy:
    """The greedy action, but with probability epsilon any of the state's actions."""

    epsilon: float
    """From 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise QfleetError(f"epsilon is {self.epsilon}; it must be from 0 to 1")


@dataclass(frozen=True)
class Boltzmann:
    """Actions with probabilities proportional to exp(Q / temperature)."""

    temperature: float
    """Above 0."""

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise QfleetError(f"temperature is {self.temperature}; it must be above 0 and finite")


PolicyRule = Literal["greedy", "uniform"] | EpsilonGreedy | Boltzmann
"""How a policy follows from the values."""


def fixed_point(model: Model, discount: float, rule: PolicyRule) -> NDArray[np.float64]:
    """(num_states,) values V with V(s) = sum over a of pi(a|s) Q(s, a), pi being the rule's policy for Q itself.

    greedy: the optimum. epsilon-greedy: where SARSA and expected SARSA go with a constant epsilon. Raises
    QfleetError where it does not converge, as with discount 1 where a policy never comes to an end.
    """
    operator, number = _operator(rule)
    return _iterate(model, discount, operator, number, np.empty((0, 0)))


def policy_values(model: Model, discount: float, policy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(num_states,) values of a policy (num_states, num_actions) of probabilities; errors as fixed_point."""
    return _iterate(model, discount, _GIVEN, 0.0, policy)


def action_values(model: Model, discount: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(num_states, num_actions) of one step ahead of V; -inf for actions that a state does not have."""
    result = np.empty((model.num_states, model.num_actions))
    _look_ahead(model, discount, values, result)
    return result


def bellman_residual(model: Model, discount: float, values: NDArray[np.float64]) -> float:
    """Largest |r + discount * max Q(s', .) - Q(s, a)| over allowed actions; values (num_states, num_actions)."""
    best = np.empty(model.num_states)
    return float(_residual(model, discount, values, best))


def reachable(model: Model, starts: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(num_states,): which states episodes from `starts` can be in before they end."""
    found = np.zeros(model.num_states, np.bool_)
    queue = np.empty(model.num_states, np.int32)
    found[starts] = True
    queue[: starts.size] = starts
    _spread(model, found, queue, starts.size, model.num_states)
    return found


def successors(model: Model, states: NDArray[np.integer]) -> NDArray[np.int64]:
    """The states, each once and in order, that one step from `states` leads to without ending the episode."""
    found = np.zeros(model.num_states, np.bool_)
    queue = np.empty(model.num_states + states.size, np.int32)
    queue[: states.size] = states
    _spread(model, found, queue, states.size, states.size)
    return np.flatnonzero(found)


def horizon_values(model: Model, max_steps: int) -> NDArray[np.float64] | None:
    """(num_states,) largest expected undiscounted sums of rewards over max_steps steps; None if that takes too long."""
    values, scratch = np.zeros((2, model.num_states)), np.empty(model.num_actions)
    sweep_backups = model.next_state.size
    sweeps_a_call = max(1, _CALL_BACKUPS // sweep_backups)
    done = 0
    while done < max_steps:
        if done * sweep_backups > MAX_BACKUPS:
            return None
        sweeps = min(sweeps_a_call, max_steps - done)
        if _recede(model, values, scratch, sweeps, done):
            return values[0]
        done += sweeps
    return values[done % 2]


def _operator(rule: PolicyRule) -> tuple[int, float]:
    """The kernels' number for a rule, and what it depends on."""
    if isinstance(rule, EpsilonGreedy):
        return _EPSILON_GREEDY, rule.epsilon
    if isinstance(rule, Boltzmann):
        return _BOLTZMANN, rule.temperature
    known = {"greedy": (_GREEDY, 0.0), "uniform": (_EPSILON_GREEDY, 1.0)}
    if rule not in known:
        raise QfleetError(
            f"policy is {rule!r}; it must be greedy, uniform, EpsilonGreedy(...) or Boltzmann(...)"
        )
    return known[rule]


def _max_sweeps(discount: float) -> int:
    """Enough for a contraction to reach the last bit; without discount what episodic worlds need, amply."""
    return 1000 + math.ceil(60 / (1 - discount)) if discount < 1 else 100_000


def _iterate(
    model: Model, discount: float, operator: int, number: float, policy: NDArray[np.float64]
) -> NDArray[np.float64]:
    if not 0 <= discount <= 1:
        raise QfleetError(f"discount is {discount}; it must be from 0 to 1")
    values, scratch = np.zeros(model.num_states), np.empty(model.num_actions)
    # What the sweeps must remember between calls: the smallest change, sweeps since then.
    progress = np.array([np.inf, 0.0])
    sweeps_a_call = 2 * max(1, _CALL_BACKUPS // (2 * model.next_state.size))
    limit = _max_sweeps(discount)
    for _ in range(0, limit, sweeps_a_call):
        sweeps = min(sweeps_a_call, limit)
        if _sweep(model, discount, operator, number, policy, values, scratch, progress, sweeps):
            return values
    raise QfleetError(
        f"the values do not converge with discount {discount:g}: after {limit} sweeps they still change by "
        f"{progress[0]:.3g}; "
        + (
            "a discount below 1 works"
            if discount == 1
            else "a rule other than Boltzmann, or a higher temperature"
        )
    )


@part
def _first(model, pair):
    """Where the outcomes of a pair begin."""
    return pair * model.branching if model.branching > 0 else model.offsets[pair]


@part
def _backup(model, discount, values, pair):
    """E[reward + discount * V(next state)] of a pair."""
    total, before = 0.0, 0.0
    for i in range(_first(model, pair), _first(model, pair + 1)):
        following = model.next_state[i]
        worth = model.reward[i] + (discount * values[following] if following >= 0 else 0.0)
        if model.branching == 1:
            return worth
        total += (model.cumulative[i] - before) * worth
        before = model.cumulative[i]
    return total


@part
def _has(model, pair):
    return model.allowed.size == 0 or model.allowed[pair]


@part
def _back_up_all(model, discount, values, state, result):
    """Fills `result` with the action values of a state; the best of them."""
    best = -np.inf
    for action in range(model.num_actions):
        pair = state * model.num_actions + action
        result[action] = _backup(model, discount, values, pair) if _has(model, pair) else -np.inf
        best = max(best, result[action])
    return best


@part
def _worth(operator, number, policy, state, scratch, best):
    """The value of a state under the operator's policy, given its action values; best is their maximum."""
    if operator == _GREEDY:
        return best
    total, weights = 0.0, 0.0
    for action in range(scratch.size):
        if scratch[action] > -np.inf:
            weight = 1.0
            if operator == _BOLTZMANN:
                weight = np.exp((scratch[action] - best) / number)
            elif operator == _GIVEN:
                weight = policy[state, action]
            total += weight * scratch[action]
            weights += weight
    if operator == _EPSILON_GREEDY:
        return (1 - number) * best + number * (total / weights)
    return total if operator == _GIVEN else total / weights


@borrowing_kernel
def _sweep(model, discount, operator, number, policy, values, scratch, progress, sweeps):
    """Sweeps over all states, up to `sweeps` times; True once rounding alone changes the values."""
    for sweep in range(sweeps):
        change, scale = 0.0, 0.0
        for i in range(model.num_states):
            state = model.num_states - 1 - i if sweep % 2 == 0 else i
            best = _back_up_all(model, discount, values, state, scratch)
            new = _worth(operator, number, policy, state, scratch, best)
            change = max(change, abs(new - values[state]))
            scale = max(scale, abs(new))
            values[state] = new
        if change == 0:
            return True
        if change < progress[0]:
            progress[0], progress[1] = change, 0
        else:
            progress[1] += 1
        if progress[1] >= _STALLED_SWEEPS and progress[0] <= 1e-14 * scale:
            return True
    return False


@borrowing_kernel
def _look_ahead(model, discount, values, result):
    for state in range(model.num_states):
        _back_up_all(model, discount, values, state, result[state])


@borrowing_kernel
def _residual(model, discount, values, best):
    for state in range(model.num_states):
        best[state] = -np.inf
        for action in range(model.num_actions):
            if _has(model, state * model.num_actions + action):
                best[state] = max(best[state], values[state, action])
    largest = 0.0
    for state in range(model.num_states):
        for action in range(model.num_actions):
            pair = state * model.num_actions + action
            if _has(model, pair):
                largest = max(largest, abs(_backup(model, discount, best, pair) - values[state, action]))
    return largest


@borrowing_kernel
def _recede(model, values, scratch, sweeps, done):
    """Looks one step further, `sweeps` times, from values[done % 2]; True once nothing changes any more."""
    for sweep in range(done, done + sweeps):
        old, new = values[sweep % 2], values[(sweep + 1) % 2]
        changed = False
        for state in range(model.num_states):
            new[state] = _back_up_all(model, 1.0, old, state, scratch)
            changed |= new[state] != old[state]
        if not changed:
            return True
    return False


@borrowing_kernel
def _spread(model, found, queue, size, most):
    """Breadth first from queue[:size], whatever `most` states lead to."""
    taken = 0
    while taken < min(size, most):
        state = queue[taken]
        taken += 1
        for action in range(model.num_actions):
            pair = np.int64(state) * model.num_actions + action
            if not _has(model, pair):
                continue
            for i in range(_first(model, pair), _first(model, pair + 1)):
                following = model.next_state[i]
                if following >= 0 and not found[following]:
                    found[following] = True
                    queue[size] = following
                    size += 1


def graph(model: Model) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(offsets, neighbours): for each state those that a step of non-zero probability leads to or comes from."""
    pairs = model.num_states * model.num_actions
    sizes = np.diff(model.offsets) if model.offsets.size else np.full(pairs, model.branching)
    sources = np.repeat(np.repeat(np.arange(model.num_states), model.num_actions), sizes)
    kept = (model.next_state >= 0) & (model.next_state != sources)
    sources, targets = sources[kept], model.next_state[kept]
    ones = np.ones(len(sources), np.int8)
    shape = (model.num_states, model.num_states)
    matrix = scipy.sparse.csr_array((ones, (sources, targets)), shape=shape)
    matrix = scipy.sparse.csr_array(matrix + matrix.T)
    matrix.sum_duplicates()
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
