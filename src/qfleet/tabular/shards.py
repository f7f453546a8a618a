"""Which rows a table has, and the halo: what a step into a state of another worker bootstraps with."""

import numpy as np

from qfleet.kernels import mix, part
from qfleet.tabular.program import dispatched

FREE = -1


@dispatched(lambda program: _row_of_shard if program.sharded else _row_of_whole)
def row_of(program, shard, state):
    """The row of a state, outside [0, num_rows) if another worker owns it."""
    raise NotImplementedError


def _row_of_whole(program, shard, state):
    return state


def _row_of_shard(program, shard, state):
    return position_of(shard, state) - shard.first


@part
def position_of(shard, state):
    """Where a state stands in the order that is cut into shards."""
    return np.int64(shard.positions[state]) if shard.positions.size else state


@dispatched(lambda program: _owns_shard if program.sharded else _owns_whole)
def owns(program, shard, row):
    """Whether a row is one of this table's."""
    raise NotImplementedError


def _owns_whole(program, shard, row):
    return True


def _owns_shard(program, shard, row):
    return 0 <= row < shard.num_rows


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
def halo_value(shard, constants, state, which):
    """What the owner last said of a state; a state met for the first time is entered, with the initial value."""
    slot = halo_slot(shard.halo_keys, state)
    if slot < 0:
        return constants.initial_value
    if shard.halo_keys[slot] == FREE:
        shard.halo_keys[slot] = state
        shard.halo_values[slot, :] = constants.initial_value
    return shard.halo_values[slot, which]


@dispatched(lambda program: _note_shard if program.sharded else _note_whole)
def note_load(program, shard, row):
    """Counts a visit of the row's block."""
    raise NotImplementedError


def _note_whole(program, shard, row): ...


def _note_shard(program, shard, row):
    shard.load[(row + shard.first) >> shard.load_shift] += 1
