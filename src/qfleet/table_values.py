"""The values of a table's run as checkpoints keep them: one table, or the shards that workers owned."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.tabular.cut import Cut, cut_blocks


@final
class TableValues:
    """Rows by the number of their state, wherever they are."""

    def __init__(self, shards: Sequence[NDArray[Any]], cut: Cut, *, kept_apart: bool = False) -> None:
        self._shards, self._cut, self._kept_apart = list(shards), cut, kept_apart

    @staticmethod
    def from_state(state: dict[str, Any]) -> "TableValues":
        """From {"values": (num_states, num_actions)}, or from shards and their cut as `Partitioned` saves them."""
        if "shards" not in state:
            return TableValues([state["values"]], cut_blocks(len(state["values"]), 1))
        shards = [state["shards"][str(rank)] for rank in range(len(state["shards"]))]
        cut = Cut(tuple(state["bounds"]), state["positions"])
        return TableValues(shards, cut, kept_apart=state["kept_apart"])

    @property
    def is_whole(self) -> bool:
        """Whether all rows are in one array, in the order of the states."""
        return len(self._shards) == 1 and not self._cut.positions.size

    @property
    def num_states(self) -> int:
        """Rows in all."""
        return self._cut.num_states

    @property
    def num_actions(self) -> int:
        """Columns."""
        return self._shards[0].shape[1]

    def merged(self) -> NDArray[Any]:
        """(num_states, num_actions); raises QfleetError where shards were to be kept apart."""
        if self._kept_apart:
            raise QfleetError(
                f"the table was left in its {len(self._shards)} shards (--keep-shards); an agent looks rows up in them"
            )
        if not self.is_whole:
            rows = np.concatenate(self._shards)
            rows = rows[self._cut.positions] if self._cut.positions.size else rows
            self._shards, self._cut = [rows], cut_blocks(len(rows), 1)
        return self._shards[0]

    def row(self, state: int) -> NDArray[Any]:
        """(num_actions,) of one state; raises QfleetError for a number that no state has."""
        return self.rows(np.array([state]))[0]

    def rows(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(n, num_actions) of states (n,); raises QfleetError for a number that no state has."""
        unknown = states[(states < 0) | (states >= self.num_states)]
        if unknown.size:
            raise QfleetError(f"state {unknown[0]} is none of the table's {self.num_states:,} states")
        if self.is_whole:
            return self._shards[0][states]
        positions, owners = self._cut.positions_of(states), self._cut.owners(states)
        found = np.empty((len(states), self.num_actions), self._shards[0].dtype)
        for rank, shard in enumerate(self._shards):
            here = owners == rank
            found[here] = shard[positions[here] - self._cut.bounds[rank]]
        return found

    def parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """(states, rows) of each part."""
        for rank, shard in enumerate(self._shards):
            yield self._cut.states(rank), shard


def greedy_actions(values: NDArray[Any], allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """(num_states,) the best action of each row, the first of equals; never one that is not allowed.

    `values` and `allowed` are (num_states, num_actions).
    """
    return np.argmax(values if allowed is None else np.where(allowed, values, -np.inf), axis=1)
