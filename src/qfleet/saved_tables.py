"""A table's run as a checkpoint holds it, for another number of workers to go on with."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.table_values import TableValues
from qfleet.tabular.cut import Cut, cut_blocks


@final
class SavedTables:
    """The rows of a run's tables and how often they were updated, by state, whoever had them."""

    def __init__(self, state: dict[str, Any]) -> None:
        """`state` is a TableTrainee's."""
        workers, tables = state["topology"]["workers"], state["tables"]
        ranks = [str(rank) for rank in range(len(workers))]
        visits = [workers[rank]["learner"]["visits"] for rank in ranks]
        self.num_steps: int = state["topology"]["num_steps"]
        self.num_workers = len(ranks)
        self.rounds: int = workers["0"].get("rounds", 0)
        if "shards" in tables:
            cut = Cut(tuple(tables["bounds"]), tables["positions"])
            self._tables = _by_table([tables["shards"][rank] for rank in ranks], cut)
        else:
            cut = cut_blocks(tables["values"].shape[1], 1)
            self._tables = _by_table([tables["values"]], cut)
            # Each worker has counted its own, or all the same ones.
            visits = [np.mean(visits, axis=0).astype(np.uint32)]
        self._visits = _by_table(visits, cut)

    def rows(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(num_tables, n, num_actions) values of states (n,)."""
        return np.stack([table.rows(states) for table in self._tables])

    def visits(self, states: NDArray[np.int64]) -> NDArray[np.uint32]:
        """(num_tables, n, num_actions) updates of states (n,), of one worker or of all; none if not counted."""
        if not self._visits:
            return np.empty((0, 0, 0), np.uint32)
        return np.stack([table.rows(states) for table in self._visits])


def _by_table(shards: Sequence[NDArray[Any]], cut: Cut) -> list[TableValues]:
    return [TableValues([shard[table] for shard in shards], cut) for table in range(len(shards[0]))]
