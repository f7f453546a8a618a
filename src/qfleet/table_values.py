"""The values of a table's run as checkpoints keep them: one table, or the shards that workers owned."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError


@dataclass(frozen=True)
class Shard:
    """Rows of some states."""

    states: NDArray[np.int64]
    """(num_rows,) ascending."""
    values: NDArray[Any]
    """(num_rows, num_actions)"""


@final
class TableValues:
    """Rows by the number of their state, wherever they are."""

    def __init__(self, shards: tuple[Shard, ...], whole: NDArray[Any] | None = None) -> None:
        self.shards, self._whole = shards, whole

    @staticmethod
    def from_state(state: dict[str, Any]) -> "TableValues":
        """From `{"values": (num_states, num_actions)}` or `{"shards": {name: {"states": ..., "values": ...}}}`."""
        if "shards" not in state:
            return TableValues((), state["values"])
        shards = (Shard(shard["states"], shard["values"]) for shard in state["shards"].values())
        return TableValues(tuple(shards))

    @property
    def num_states(self) -> int:
        """Rows in all."""
        return sum(len(shard.states) for shard in self.shards) if self._whole is None else len(self._whole)

    @property
    def num_actions(self) -> int:
        """Columns."""
        return (self.shards[0].values if self._whole is None else self._whole).shape[1]

    def merged(self) -> NDArray[Any]:
        """(num_states, num_actions); raises QfleetError where shards were to be kept apart."""
        if self._whole is None:
            raise QfleetError(
                f"the table was left in its {len(self.shards)} shards (--keep-shards); an agent looks rows up in them"
            )
        return self._whole

    def row(self, state: int) -> NDArray[Any]:
        """(num_actions,) of one state; raises QfleetError for a number that no state has."""
        if self._whole is not None:
            if 0 <= state < len(self._whole):
                return self._whole[state]
            raise self._unknown(state)
        for shard in self.shards:
            index = int(np.searchsorted(shard.states, state))
            if index < len(shard.states) and shard.states[index] == state:
                return shard.values[index]
        raise self._unknown(state)

    def rows(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(n, num_actions) of states (n,); raises QfleetError for a number that no state has."""
        if self._whole is not None:
            return self._whole[states]
        found = np.empty((len(states), self.num_actions), self.shards[0].values.dtype)
        missing = np.ones(len(states), np.bool_)
        for shard in self.shards:
            index = np.minimum(np.searchsorted(shard.states, states), max(0, len(shard.states) - 1))
            here = shard.states[index] == states if len(shard.states) else np.zeros(len(states), np.bool_)
            found[here] = shard.values[index[here]]
            missing &= ~here
        if missing.any():
            raise self._unknown(int(states[missing][0]))
        return found

    def _unknown(self, state: int) -> QfleetError:
        return QfleetError(f"state {state} is none of the table's {self.num_states:,} states")

    def parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """(states, rows) of each part."""
        if self._whole is not None:
            yield np.arange(len(self._whole)), self._whole
        for shard in self.shards:
            yield shard.states, shard.values


def greedy_actions(values: NDArray[Any], allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """(num_states,) the best action of each row, the first of equals; never one that is not allowed.

    `values` and `allowed` are (num_states, num_actions).
    """
    return np.argmax(values if allowed is None else np.where(allowed, values, -np.inf), axis=1)
