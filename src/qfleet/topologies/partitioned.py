"""Partitioned: every worker owns some of the states, and their rows of the table are nowhere else.

A step from an own state to another worker's bootstraps with what that worker last told of it, and the walker moves
there when the round ends:

    Q_k(s, a) <- Q_k(s, a) + alpha [r + gamma max_a' Q_k'(s', a') - Q_k(s, a)]        s in S_k, s' in S_k'

The whole table is the workers' tables one after the other: merging loses nothing. What is told are bootstrap
values, one number a state, never rows; states that a worker meets across the border for the first time count as
the initial value, and are told from the next exchange on.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Fleet
from qfleet.tabular.cut import Cut
from qfleet.tabular.learner import Task
from qfleet.topologies.partitioned_config import PartitionedConfig
from qfleet.topologies.partitioned_worker import PartitionedWorker
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.table_team import (
    TableTopology,
)


@final
class Partitioned(TableTopology):
    """One table in as many shards as workers."""

    def __init__(
        self,
        fleet: Fleet,
        task: Task,
        cut: Cut,
        config: PartitionedConfig,
        restarts: Restarts | None = None,
    ) -> None:
        makers: Sequence[Any] = [
            partial(PartitionedWorker, task, cut, config) for _ in range(task.num_workers)
        ]
        super().__init__(fleet, task, makers, config.stall_timeout_seconds, restarts)
        self._first_cut, self._keeps_shards = cut, config.keep_shards

    def cut(self) -> Cut:
        """Who owns what now."""
        return Cut(tuple(self._one(0, "bounds")), self._first_cut.positions)

    def values(self) -> NDArray[Any]:
        """The shards one after the other."""
        cut, rows = self.cut(), np.concatenate(self._all("rows"), axis=1)
        return rows[:, cut.positions] if cut.positions.size else rows

    def look_up(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(num_tables, n, num_actions): rows of any states (n,), from whoever owns them."""
        owners = self.cut().owners(states)
        found = None
        for rank in np.unique(owners).tolist():
            chosen = owners == rank
            rows = self._one(rank, "look_up", states[chosen])
            if found is None:
                found = np.empty((rows.shape[0], len(states), rows.shape[2]), rows.dtype)
            found[:, chosen] = rows
        assert found is not None, "states is empty"
        return found

    def set_values(self, values: NDArray[Any]) -> None:
        """Gives every worker its rows."""
        self.set_rows(lambda states: values[:, states])

    def set_rows(self, rows_of: Callable[[NDArray[np.int64]], NDArray[Any]]) -> None:
        """The same from a function that looks rows (num_tables, n, num_actions) of states (n,) up."""
        self._distribute(rows_of, self.cut())

    def _distribute(self, rows_of: Callable[[NDArray[np.int64]], NDArray[Any]], cut: Cut) -> None:
        """One worker's rows at a time, so that there is no second table."""
        for rank in range(cut.num_workers):
            self._set_rows(rank, cut.bounds, rows_of(cut.states(rank)))

    def _set_rows(self, rank: int, bounds: Sequence[int], rows: NDArray[Any]) -> None:
        self._one(rank, "set_rows", list(bounds), np.ascontiguousarray(rows))

    def save_tables(self) -> dict[str, Any]:
        """The shards, in the order of the ranks, and who owns what; on threads they are the workers' own arrays."""
        cut = self.cut()
        shards = {str(rank): self._one(rank, "rows") for rank in range(cut.num_workers)}
        cut_state = {"bounds": list(cut.bounds), "positions": cut.positions}
        return {"shards": shards, "kept_apart": self._keeps_shards, **cut_state}

    def load_tables(self, state: dict[str, Any]) -> None:
        """Takes what `save_tables` returned."""
        for rank in range(len(state["bounds"]) - 1):
            self._set_rows(rank, state["bounds"], state["shards"][str(rank)])

    def _keep_tables(self) -> Any:
        """The bounds of the cut, and what stands for each worker's rows."""
        ranks = range(len(self._workers))
        return self._workers.one(0, "bounds"), self._workers.keep("rows", *ranks)

    def _give_tables(self, tables: Any) -> None:
        bounds, kept = tables
        self._workers.each("set_rows", [(bounds, rows) for rows in kept])

    def _kept_in(self, tables: Any) -> Sequence[Any]:
        return tables[1]

    def _set_visits(self, visits_of: Callable[[NDArray[np.int64]], NDArray[np.uint32]]) -> None:
        """To each worker those of its rows."""
        cut = self.cut()
        for rank in range(cut.num_workers):
            self._one(rank, "set_visits", visits_of(cut.states(rank)))
