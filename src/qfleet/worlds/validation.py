"""What an MDP in arrays must fulfil; every error names the state and action, and what would work."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError

PROBABILITY_TOLERANCE = 1e-8
"""How far the probabilities of a pair may be from summing to one; they are then divided by their sum."""


def check_sizes(name: str, num_states: int, num_actions: int) -> None:
    """Raises QfleetError unless there is a state and an action, and states can be numbered in 31 bits."""
    if num_states < 1 or num_actions < 1:
        raise QfleetError(
            f"{name}: {num_states} states and {num_actions} actions; there must be at least one of each"
        )
    if num_states >= 2**31:
        raise QfleetError(f"{name}: {num_states} states; states are int32, so there may be {2**31 - 1}")


def pair_error(name: str, pair: int, num_actions: int, what: str) -> QfleetError:
    """The error about one (state, action) pair."""
    return QfleetError(f"{name}: state {pair // num_actions}, action {pair % num_actions}: {what}")


def check_entries(
    name: str,
    num_states: int,
    num_actions: int,
    pairs: NDArray[np.int64],
    next_states: NDArray[np.integer],
    probabilities: NDArray[np.float64],
    rewards: NDArray[np.float64],
) -> None:
    """Checks outcomes one by one: ranges of next states, signs of probabilities, finite rewards."""
    for wrong, values, what in (
        (
            (next_states < 0) | (next_states >= num_states),
            next_states,
            f"the next state {{value}} is out of range; states are 0 to {num_states - 1}",
        ),
        (
            ~(probabilities >= 0) | np.isinf(probabilities),
            probabilities,
            "a probability is {value}; it must be a finite number from 0 to 1",
        ),
        (~np.isfinite(rewards), rewards, "the reward is {value}; it must be finite"),
    ):
        if wrong.any():
            entry = int(np.argmax(wrong))
            raise pair_error(name, int(pairs[entry]), num_actions, what.format(value=values[entry]))


def check_sums(name: str, sums: NDArray[np.float64], num_actions: int) -> None:
    """Raises QfleetError for the first pair whose probabilities do not sum to one; `sums`: (pairs,)."""
    nothing = "no transition has a probability; mask the action with `allowed`, or make the state `terminal`"
    for wrong, what in (
        (sums == 0, nothing),
        (np.abs(sums - 1) > PROBABILITY_TOLERANCE, "the probabilities sum to {value}; they must sum to 1"),
    ):
        if wrong.any():
            pair = int(np.argmax(wrong))
            raise pair_error(name, pair, num_actions, what.format(value=sums[pair]))


def checked_terminal(name: str, terminal: Any, num_states: int) -> NDArray[np.bool_] | None:
    """(num_states,) bool, or None where no state is terminal; takes a list of states too."""
    if terminal is None:
        return None
    array = np.asarray(terminal)
    if array.dtype == np.bool_:
        if array.shape != (num_states,):
            raise QfleetError(f"{name}: terminal has shape {array.shape}; it must be ({num_states},)")
        return array if array.any() else None
    flags = np.zeros(num_states, np.bool_)
    if array.size == 0:
        return None
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise QfleetError(f"{name}: terminal must be (num_states,) booleans or a list of states")
    if array.min() < 0 or array.max() >= num_states:
        wrong = array[(array < 0) | (array >= num_states)][0]
        raise QfleetError(
            f"{name}: the terminal state {wrong} is out of range; states are 0 to {num_states - 1}"
        )
    flags[array] = True
    return flags


def checked_allowed(
    name: str, allowed: Any, shape: tuple[int, int], terminal: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """(num_states, num_actions) bool, terminal states having all actions; None where nothing is masked."""
    if allowed is None:
        return None
    array = np.asarray(allowed)
    if array.shape != shape:
        raise QfleetError(f"{name}: allowed has shape {array.shape}; it must be {shape}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise QfleetError(f"{name}: allowed has entries other than 0 and 1; it must be booleans")
    flags = array.astype(np.bool_)
    if terminal is not None:
        flags[terminal] = True
    empty = ~flags.any(axis=1)
    if empty.any():
        raise QfleetError(
            f"{name}: state {int(np.argmax(empty))} is not terminal and has no allowed action; allow one, or make "
            "it `terminal`"
        )
    return None if flags.all() else flags


def checked_start(name: str, start: Any, num_states: int, terminal: NDArray[np.bool_] | None) -> NDArray:
    """(num_states,) probabilities of first states that sum to one."""
    array = np.asarray(start)
    if array.ndim == 0 and np.issubdtype(array.dtype, np.integer):
        if not 0 <= array < num_states:
            raise QfleetError(f"{name}: the start {array} is out of range; states are 0 to {num_states - 1}")
        array = (np.arange(num_states) == array).astype(np.float64)
    if array.shape != (num_states,) or not np.issubdtype(array.dtype, np.floating):
        raise QfleetError(
            f"{name}: start is {array.dtype} of shape {array.shape}; it must be a state, or ({num_states},) "
            "probabilities"
        )
    wrong = ~(array >= 0) | np.isinf(array)
    if wrong.any():
        state = int(np.argmax(wrong))
        raise QfleetError(
            f"{name}: the start probability of state {state} is {array[state]}; it must be 0 to 1"
        )
    if abs(array.sum() - 1) > PROBABILITY_TOLERANCE:
        raise QfleetError(f"{name}: the start probabilities sum to {array.sum()}; they must sum to 1")
    if terminal is not None and (terminal & (array > 0)).any():
        state = int(np.argmax(terminal & (array > 0)))
        raise QfleetError(
            f"{name}: state {state} is terminal, and episodes would start there; start elsewhere"
        )
    return array / array.sum()
