"""What each (state, action) pair may lead to, packed into records as small as the MDP allows."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import kernel
from qfleet.worlds.validation import check_entries, check_sums, pair_error

MAX_BRANCHING = 8
"""Outcomes a pair up to which all are compared with, so that every pair gets room for the same number."""

_PADDING = 2
"""Records that may be stored for each one needed, before pairs get offsets instead of room for the same number."""

_CHUNK_PAIRS = 1 << 20


@final
@dataclass(frozen=True, eq=False)
class Outcomes:
    """Records (next_state, reward[, cumulative]) pair by pair; a next state that ends the episode is ~state."""

    records: NDArray[Any]
    branching: int
    """Records of every pair; 0: as `offsets` say."""
    offsets: NDArray[np.int64]
    """(pairs + 1,) where a pair's records begin; empty where `branching` says so."""

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self.records.nbytes + self.offsets.nbytes


@dataclass(frozen=True)
class Entries:
    """Outcomes one by one, in any order; arrays of one length."""

    pairs: NDArray[np.int64]
    """state * num_actions + action"""
    next_states: NDArray[np.integer]
    probabilities: NDArray[np.float64]
    rewards: NDArray[np.float64]
    ended: NDArray[np.bool_]
    """Whether the episode terminates with it."""

    def select(self, index: NDArray[Any]) -> "Entries":
        """Some of them, by a mask or an order."""
        return Entries(
            self.pairs[index],
            self.next_states[index],
            self.probabilities[index],
            self.rewards[index],
            self.ended[index],
        )


def record_type(rewards_are_float32: bool, with_probability: bool) -> np.dtype[Any]:
    """Of a record: 8 bytes where rewards are float32 and certain, at most 20."""
    fields = [("next_state", np.int32), ("reward", np.float32 if rewards_are_float32 else np.float64)]
    return np.dtype(fields + [("cumulative", np.float64)] * with_probability)


def is_float32(values: NDArray) -> bool:
    """Whether float32 holds all values exactly; looks at a part at a time, to need little memory."""
    if values.dtype in (np.float32, np.float16):
        return True
    flat = values.reshape(-1)
    parts = (flat[first : first + _CHUNK_PAIRS] for first in range(0, flat.size, _CHUNK_PAIRS))
    with np.errstate(over="ignore"):
        return all((part.astype(np.float32) == part).all() for part in parts)


def pack_deterministic(
    name: str,
    next_states: NDArray[np.integer],
    rewards: NDArray,
    terminal: NDArray[np.bool_] | None,
    masked: NDArray[np.bool_] | None,
) -> Outcomes:
    """Outcomes of an MDP whose pairs lead to one next state each; all arrays (num_states, num_actions).

    `masked`: pairs that cannot be taken, of which nothing is checked. Needs little memory beyond its result.
    """
    num_states, num_actions = next_states.shape
    records = np.empty(next_states.size, record_type(is_float32(rewards), False))
    step = max(1, _CHUNK_PAIRS // num_actions)
    for first in range(0, num_states, step):
        rows = slice(first, min(num_states, first + step))
        states = np.repeat(np.arange(rows.start, rows.stop), num_actions)
        absent = np.zeros(states.size, np.bool_) if masked is None else masked[rows].ravel()
        absent = absent if terminal is None else absent | terminal[states]
        nexts, gains = next_states[rows].ravel(), rewards[rows].ravel()
        _check_certain(name, nexts, gains, absent, first, num_states, num_actions)
        # The unsigned kinds are widened, or ~ would not give a negative number.
        nexts = np.where(absent, states, nexts).astype(np.int64)
        ended = absent if terminal is None else absent | terminal[nexts]
        part = records[first * num_actions : rows.stop * num_actions]
        part["next_state"] = np.where(ended, ~nexts, nexts)
        part["reward"] = np.where(absent, 0, gains)
    return Outcomes(records, 1, np.empty(0, np.int64))


def _check_certain(
    name: str,
    nexts: NDArray,
    gains: NDArray,
    absent: NDArray[np.bool_],
    first: int,
    num_states: int,
    actions: int,
) -> None:
    """Raises QfleetError for a next state out of range or a reward that is not finite; `first`: of the states."""
    out_of_range = f"the next state {{value}} is out of range; states are 0 to {num_states - 1}"
    for wrong, values, what in (
        ((nexts < 0) | (nexts >= num_states), nexts, out_of_range),
        (~np.isfinite(gains), gains, "the reward is {value}; it must be finite"),
    ):
        if (wrong & ~absent).any():
            i = int(np.argmax(wrong & ~absent))
            raise pair_error(name, first * actions + i, actions, what.format(value=values[i]))


def pack(
    name: str,
    entries: Entries,
    shape: tuple[int, int],
    terminal: NDArray[np.bool_] | None,
    masked: NDArray[np.bool_] | None,
) -> Outcomes:
    """Checks outcomes and packs them in the smallest form that holds them; raises QfleetError.

    Pairs of terminal states and masked ones become what nobody takes: the end, without a reward.
    """
    num_states, num_actions = shape
    absent = _absent_pairs(shape, terminal, masked)
    entries = entries.select(~absent[entries.pairs])
    check_entries(
        name,
        num_states,
        num_actions,
        entries.pairs,
        entries.next_states,
        entries.probabilities,
        entries.rewards,
    )
    sums = np.bincount(entries.pairs, entries.probabilities, num_states * num_actions).astype(np.float64)
    sums[absent] = 1
    check_sums(name, sums, num_actions)
    entries = _with_absent(entries.select(entries.probabilities > 0), np.flatnonzero(absent), num_actions)
    counts = np.bincount(entries.pairs, minlength=num_states * num_actions)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return _laid_out(_records(entries, offsets), offsets, counts)


def _absent_pairs(
    shape: tuple[int, int], terminal: NDArray[np.bool_] | None, masked: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    absent = np.zeros(shape, np.bool_) if masked is None else masked.copy()
    if terminal is not None:
        absent[terminal] = True
    return absent.ravel()


def _with_absent(entries: Entries, pairs: NDArray[np.int64], num_actions: int) -> Entries:
    """Adds one outcome for every pair that cannot be taken, and sorts by pairs."""
    size = pairs.size
    entries = Entries(
        np.concatenate([entries.pairs, pairs]),
        np.concatenate([entries.next_states, pairs // num_actions]),
        np.concatenate([entries.probabilities, np.ones(size)]),
        np.concatenate([entries.rewards, np.zeros(size)]),
        np.concatenate([entries.ended, np.ones(size, np.bool_)]),
    )
    if (np.diff(entries.pairs) >= 0).all():
        return entries
    return entries.select(np.argsort(entries.pairs, kind="stable"))


def _records(entries: Entries, offsets: NDArray[np.int64]) -> NDArray[Any]:
    certain = entries.pairs.size == offsets.size - 1
    records = np.empty(entries.pairs.size, record_type(is_float32(entries.rewards), not certain))
    nexts = entries.next_states.astype(np.int64)
    records["next_state"] = np.where(entries.ended, ~nexts, nexts)
    records["reward"] = entries.rewards
    if not certain:
        cumulative = entries.probabilities.copy()
        cumulate(cumulative, offsets)
        records["cumulative"] = cumulative
    return records


def _laid_out(records: NDArray[Any], offsets: NDArray[np.int64], counts: NDArray[np.int64]) -> Outcomes:
    """Room for the same number of records a pair, where that is small and wastes little; else offsets."""
    branching = int(counts.max())
    if branching == 1:
        return Outcomes(records, 1, np.empty(0, np.int64))
    if branching > MAX_BRANCHING or branching * counts.size > _PADDING * records.size:
        return Outcomes(records, 0, offsets)
    if records.size < branching * counts.size:
        # The last outcome again: its cumulative probability is 1 already, so that it is never drawn.
        index = offsets[:-1, None] + np.minimum(np.arange(branching), counts[:, None] - 1)
        records = records[index.ravel()]
    return Outcomes(records, branching, np.empty(0, np.int64))


@kernel
def cumulate(probabilities, offsets):
    """Makes probabilities cumulative, range by range, in place; the last of each is exactly 1."""
    for pair in range(offsets.size - 1):
        total = 0.0
        for i in range(offsets[pair], offsets[pair + 1]):
            total += probabilities[i]
        below = 0.0
        for i in range(offsets[pair], offsets[pair + 1]):
            below += probabilities[i]
            probabilities[i] = min(1.0, below / total)
        probabilities[offsets[pair + 1] - 1] = 1.0
