"""From the arrays that a user has (dense, sparse, next states) to packed outcomes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.worlds.outcomes import Entries, Outcomes, pack, pack_deterministic
from qfleet.worlds.validation import check_sizes

Pack = Callable[[NDArray[np.bool_] | None, NDArray[np.bool_] | None], Outcomes]
"""Packs the outcomes, given which states are terminal and which pairs are masked (None: none)."""

_FORMS = (
    "transitions must be probabilities (S, A, S), sparse probabilities (S * A, S) or integer next states (S, A), "
    "and rewards (S, A), (S, A, S) or sparse (S * A, S)"
)


def outcomes_of_arrays(name: str, transitions: Any, rewards: Any) -> tuple[tuple[int, int], Pack]:
    """((num_states, num_actions), what packs the outcomes); see MDP.from_arrays for the forms."""
    gains = rewards if scipy.sparse.issparse(rewards) else _numbers(name, "rewards", rewards)
    if scipy.sparse.issparse(transitions):
        return _of_probabilities(
            name, scipy.sparse.csr_array(transitions, dtype=np.float64, copy=True), gains
        )
    array = _numbers(name, "transitions", transitions)
    if array.ndim == 2 and np.issubdtype(array.dtype, np.integer):
        shape = array.shape
        check_sizes(name, *shape)
        if scipy.sparse.issparse(gains) or gains.shape != shape:
            raise QfleetError(
                f"{name}: next states are {shape}, so rewards must be, too; they are {gains.shape}"
            )
        return shape, partial(_pack_next_states, name, array, gains)
    if array.ndim != 3 or array.shape[0] != array.shape[2]:
        raise QfleetError(f"{name}: transitions are {array.dtype} of shape {array.shape}; {_FORMS}")
    check_sizes(name, *array.shape[:2])
    flat = array.reshape(-1, array.shape[2]).astype(np.float64, copy=False)
    return _of_probabilities(name, scipy.sparse.csr_array(flat), gains)


def _pack_next_states(
    name: str,
    array: NDArray,
    rewards: NDArray,
    terminal: NDArray[np.bool_] | None,
    masked: NDArray[np.bool_] | None,
) -> Outcomes:
    return pack_deterministic(name, array, rewards, terminal, masked)


def _numbers(name: str, what: str, given: Any) -> NDArray:
    array = np.asarray(given)
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise QfleetError(
            f"{name}: {what} are {array.dtype}; they must be integers or floating-point numbers"
        )
    return array


def _of_probabilities(name: str, matrix: Any, rewards: Any) -> tuple[tuple[int, int], Pack]:
    """`matrix`: (S * A, S) csr of our own."""
    num_pairs, num_states = matrix.shape
    if num_states == 0 or num_pairs == 0 or num_pairs % num_states:
        raise QfleetError(f"{name}: sparse transitions have shape {matrix.shape}; {_FORMS}")
    shape = (num_states, num_pairs // num_states)
    check_sizes(name, *shape)
    matrix.sum_duplicates()
    if rewards.shape not in (shape, (*shape, num_states), (num_pairs, num_states)):
        raise QfleetError(f"{name}: rewards have shape {rewards.shape}, transitions {matrix.shape}; {_FORMS}")
    return shape, partial(_pack_probabilities, name, matrix, rewards, shape)


def _pack_probabilities(
    name: str,
    matrix: Any,
    rewards: Any,
    shape: tuple[int, int],
    terminal: NDArray[np.bool_] | None,
    masked: NDArray[np.bool_] | None,
) -> Outcomes:
    pairs = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    nexts = matrix.indices
    ended = np.zeros(nexts.size, np.bool_) if terminal is None else terminal[nexts]
    entries = Entries(pairs, nexts, matrix.data, _rewards_of(rewards, shape, pairs, nexts), ended)
    return pack(name, entries, shape, terminal, masked)


def _rewards_of(
    rewards: Any, shape: tuple[int, int], pairs: NDArray[np.int64], nexts: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The reward of each outcome."""
    if scipy.sparse.issparse(rewards):
        found = scipy.sparse.csr_array(rewards, dtype=np.float64)[pairs, nexts]
        return np.asarray(found.todense() if scipy.sparse.issparse(found) else found, np.float64).ravel()
    if rewards.shape == shape:
        return rewards.reshape(-1)[pairs].astype(np.float64)
    return rewards.reshape(-1, shape[0])[pairs, nexts].astype(np.float64)
