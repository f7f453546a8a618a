"""Which worker owns which state: contiguous blocks of an order of the states."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError

_PIECE_STATES = 2**16


@final
@dataclass(frozen=True)
class Cut:
    """States in an order, cut into one block for each worker."""

    bounds: tuple[int, ...]
    """num_workers + 1 positions, from 0 to num_states."""
    positions: NDArray[np.int32]
    """(num_states,): position of every state; empty where a state's number is its position."""

    @property
    def num_workers(self) -> int:
        """Blocks."""
        return len(self.bounds) - 1

    @property
    def num_states(self) -> int:
        """All of them."""
        return self.bounds[-1]

    def positions_of(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where states (n,) stand in the order, (n,)."""
        return self.positions[states].astype(np.int64) if self.positions.size else states

    def owners(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ranks of the workers that own states (n,), (n,)."""
        return np.searchsorted(self.bounds, self.positions_of(states), side="right") - 1

    def num_rows(self, rank: int) -> int:
        """States that a worker owns."""
        return self.bounds[rank + 1] - self.bounds[rank]

    def states(self, rank: int) -> NDArray[np.int64]:
        """(num_rows,): the states that a worker owns, in their order."""
        first, last = self.bounds[rank], self.bounds[rank + 1]
        if not self.positions.size:
            return np.arange(first, last)
        own = np.flatnonzero((self.positions >= first) & (self.positions < last))
        return own[np.argsort(self.positions[own])]

    def states_in_pieces(self, rank: int) -> Iterator[NDArray[np.int64]]:
        """The same, some at a time, for what would need many times their memory."""
        first, last = self.bounds[rank], self.bounds[rank + 1]
        ordered = self.states(rank) if self.positions.size else None
        for low in range(first, last, _PIECE_STATES):
            high = min(last, low + _PIECE_STATES)
            yield np.arange(low, high) if ordered is None else ordered[low - first : high - first]


def cut_blocks(num_states: int, num_workers: int) -> Cut:
    """Blocks of states that differ in size by at most one."""
    bounds = tuple(num_states * rank // num_workers for rank in range(num_workers + 1))
    return Cut(bounds, np.empty(0, np.int32))


def cut_by_owners(owners: NDArray[Any], num_workers: int) -> Cut:
    """The cut in which worker owners[s] owns state s; owners is (num_states,), whole numbers from 0."""
    order = np.argsort(owners, kind="stable")
    positions = np.empty(len(owners), np.int32)
    positions[order] = np.arange(len(owners), dtype=np.int32)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=num_workers))])
    return Cut(tuple(bounds.tolist()), positions)


def read_owners(path: str, num_states: int, num_workers: int) -> NDArray[np.int64]:
    """The user's own vector, from a .npy file; raises QfleetError if it does not fit."""
    try:
        owners = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise QfleetError(f"--owners {path}: {error}; it must be a .npy file of whole numbers") from error
    if owners.shape != (num_states,) or not np.issubdtype(owners.dtype, np.integer):
        raise QfleetError(
            f"--owners {path} holds {owners.dtype} of shape {owners.shape}; "
            f"it must hold {num_states} whole numbers, the worker of each state"
        )
    wrong = np.flatnonzero((owners < 0) | (owners >= num_workers))
    if wrong.size:
        raise QfleetError(
            f"--owners {path} gives state {wrong[0]} to worker {owners[wrong[0]]}; "
            f"workers are 0 to {num_workers - 1}"
        )
    return owners.astype(np.int64)


def owners_by_graph(
    offsets: NDArray[np.int64], neighbours: NDArray[np.int32], num_workers: int
) -> NDArray[np.int64]:
    """Owners such that few transitions cross a border (METIS; Karypis and Kumar 1998).

    The graph in compressed rows: the neighbours of state s are neighbours[offsets[s]:offsets[s + 1]].
    """
    try:
        import pymetis
    except ImportError as error:
        raise QfleetError(
            '--cut graph needs a package that is not installed: pip install "qfleet[graph]"'
        ) from error
    if num_workers == 1:
        return np.zeros(len(offsets) - 1, np.int64)
    _, owners = pymetis.part_graph(num_workers, pymetis.CSRAdjacency(offsets, neighbours))
    return np.asarray(owners, np.int64)


def cut_by_load(
    cut: Cut, load: NDArray[np.int64], load_shift: int, shares: NDArray[np.float64] | None = None
) -> Cut:
    """Moves the bounds so that each worker has as nearly as possible its share of the load, (num_blocks,) by position.

    Shares are (num_workers,), of a sum of 1; None: the same for all. Bounds fall on the edges of blocks of
    2 ** load_shift positions.
    """
    total = np.concatenate([[0], np.cumsum(load)])
    wanted = total[-1] * np.arange(1, cut.num_workers) / cut.num_workers
    if shares is not None:
        wanted = total[-1] * np.cumsum(shares)[:-1]
    bounds = [0]
    for rank in range(1, cut.num_workers):
        edge = int(np.abs(total - wanted[rank - 1]).argmin()) << load_shift
        bounds.append(min(max(edge, bounds[-1]), cut.num_states))
    return Cut((*bounds, cut.num_states), cut.positions)


def imbalance(
    cut: Cut, load: NDArray[np.int64], load_shift: int, shares: NDArray[np.float64] | None = None
) -> float:
    """The most loaded worker's load over what its share (num_workers,) of all would be; 1 is even.

    Blocks that straddle a bound are its first worker's.
    """
    total = np.concatenate([[0], np.cumsum(load)])
    edges = [(bound + (1 << load_shift) - 1) >> load_shift for bound in cut.bounds]
    loads = np.diff(total[edges])
    if not total[-1]:
        return 1.0
    if shares is not None:
        return float((loads / shares).max() / total[-1])
    return float(loads.max() * len(loads) / total[-1])
