"""Which rows a table has, and the halo: what a step into a state of another worker bootstraps with."""

from typing import Any

import numpy as np

from qfleet.kernels import mix, part
from qfleet.tabular.program import dispatched

FREE = -1


@dispatched(lambda program: _row_of_shard if program.sharded else _row_of_whole)
def row_of(program, work, state) -> Any:
    """The row of a state, outside [0, num_rows) if another worker owns it."""
    raise NotImplementedError


def _row_of_whole(program, work, state):
    return state


def _row_of_shard(program, work, state):
    return position_of(work, state) - work.shard.first


@part
def position_of(work, state):
    """Where a state stands in the order that is cut into shards."""
    return np.int64(work.shard.positions[state]) if work.shard.positions.size else state


@dispatched(lambda program: _owns_shard if program.sharded else _owns_whole)
def owns(program, work, row) -> Any:
    """Whether a row is one of this table's."""
    raise NotImplementedError


def _owns_whole(program, work, row):
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
def halo_value(work, state, which):
    """What the owner last said of a state; a state met for the first time is entered, with the initial value."""
    slot = halo_slot(work.shard.halo_keys, state)
    if slot < 0:
        return work.constants.initial_value
    if work.shard.halo_keys[slot] == FREE:
        work.shard.halo_keys[slot] = state
        work.shard.halo_values[slot, :] = work.constants.initial_value
    return work.shard.halo_values[slot, which]


@dispatched(lambda program: _note_shard if program.sharded else _note_whole)
def note_load(program, work, row) -> Any:
    """Counts a visit of the row's block."""
    raise NotImplementedError


def _note_whole(program, work, row): ...


def _note_shard(program, work, row):
    work.shard.load[(row + work.shard.first) >> work.shard.load_shift] += 1
