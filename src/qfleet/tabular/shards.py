"""Which rows a table has, and the halo: what a step into a state of another worker bootstraps with."""

from typing import Any

import numpy as np

from qfleet.kernels import borrowing_kernel, mix, part
from qfleet.tabular.program import dispatched

FREE = -1


@dispatched(lambda program: _POSITIONS[program.rows])
def position_of(program, work, state) -> Any:
    """Where a state stands in the order that is cut into shards."""
    raise NotImplementedError


def _position_is_state(program, work, state):
    return state


def _position_ordered(program, work, state):
    return np.int64(work.shard.positions[state])


_POSITIONS = {"whole": _position_is_state, "block": _position_is_state, "ordered": _position_ordered}


@dispatched(lambda program: _row_is_state if program.rows == "whole" else _row_of_shard)
def row_of(program, work, state) -> Any:
    """The row of a state, outside [0, num_rows) if another worker owns it."""
    raise NotImplementedError


def _row_is_state(program, work, state):
    return state


def _row_of_shard(program, work, state):
    return position_of(program, work, state) - work.shard.first


@dispatched(lambda program: _owns_all if program.rows == "whole" else _owns_shard)
def owns(program, work, row) -> Any:
    """Whether a row is one of this table's."""
    raise NotImplementedError


def _owns_all(program, work, row):
    return True


def _owns_shard(program, work, row):
    return 0 <= row < work.shard.num_rows


@part
def halo_slot(keys, state):
    """The slot of a state in the halo's hash table: its own, or the free one where it belongs; -1 if it is full."""
    mask = keys.size - 1
    slot = np.int64(mix(np.uint64(state)) & np.uint64(mask))
    for _ in range(keys.size):
        if keys[slot] == state or keys[slot] == FREE:
            return slot
        slot = (slot + 1) & mask
    return np.int64(-1)


@part
def halo_value(work, state, table):
    """What the owner last said of a state; one met for the first time is entered, with what stands for it."""
    shard = work.shard
    slot = halo_slot(shard.halo_keys, state)
    if slot < 0:
        return shard.unknown_value
    if shard.halo_keys[slot] == FREE:
        if shard.met[0] + 1 == shard.met.size:
            return shard.unknown_value
        shard.met[0] += 1
        shard.met[shard.met[0]] = state
        shard.halo_keys[slot] = state
        shard.halo_values[slot, :] = shard.unknown_value
    return shard.halo_values[slot, table]


@dispatched(lambda program: _note_nothing if program.rows == "whole" else _note_position)
def note_load(program, work, walker, steps) -> Any:
    """Counts `steps` for the block of positions that a walker stands in."""
    raise NotImplementedError


def _note_nothing(program, work, walker, steps): ...


def _note_position(program, work, walker, steps):
    position = position_of(program, work, work.walkers.state[walker])
    work.shard.load[position >> work.shard.load_shift] += steps


@borrowing_kernel
def enter(keys, values, states, told):
    """Enters states (n,) with what is told of them (n, num_tables) into a halo's hash table with room for them."""
    for i in range(states.size):
        slot = halo_slot(keys, states[i])
        keys[slot] = states[i]
        for table in range(values.shape[1]):
            values[slot, table] = told[i, table]
