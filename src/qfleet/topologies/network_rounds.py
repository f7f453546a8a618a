"""Networks under the topologies that work in rounds: driven as tables are, whose values are parameters here."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np

from qfleet.deep.parameters import Parameters, check_same_network, flat_values, from_flat_values
from qfleet.fleet_view import FleetView
from qfleet.topologies.table_team import RoundsReport, TableTopology
from qfleet.topologies.timed_turns import timed_turns
from qfleet.topologies.topology import Topology, Turn


@final
class NetworkRounds(Topology):
    """A topology of tables whose tables are networks."""

    def __init__(self, topology: TableTopology, initial: Parameters, max_steps: int) -> None:
        """`initial` are the values that all workers begin with."""
        self._topology, self._like, self._max_steps = topology, initial, max_steps
        self._given: Parameters | None = initial
        self._reports: list[RoundsReport] = []
        self._num_updates = 0

    @property
    def num_steps(self) -> int:
        """Of all workers."""
        return self._topology.num_steps

    @property
    def num_updates(self) -> int:
        """Of all workers; those that all make together count once."""
        return self._num_updates

    def prepare(self) -> None:
        """Gives the workers what they begin from, and lets them begin."""
        if self._given is not None:
            self._topology.set_values(flat_values(self._given)[None, None])
            self._topology.prepare()
            self._given = None

    def turns(self) -> Iterator[Turn]:
        """As many rounds as make a turn."""
        self.prepare()
        for is_partial in timed_turns(self._max_steps, lambda: self.num_steps, self._advance):
            yield self._turn(is_partial=is_partial)

    def _advance(self, until_steps: int) -> None:
        before = self._num_updates
        self._reports = self._topology.advance(until_steps)
        self._num_updates = int(sum(report.extras["updates"] for report in self._reports))
        self._topology.account.note_updates(self._num_updates - before)

    def _turn(self, *, is_partial: bool) -> Turn:
        advances = [report.advance for report in self._reports]
        episodes = sum(advance.episodes for advance in advances)
        if not episodes:
            return Turn(0, (), (), is_partial)
        returns = sum(advance.returns for advance in advances) / episodes
        lengths = sum(advance.episode_steps for advance in advances) / episodes
        return Turn(episodes, (returns,), (lengths,), is_partial)

    def parameters(self) -> Parameters:
        """What all workers have agreed on."""
        if self._given is not None:
            return self._given
        found = from_flat_values(self._like, self._topology.values()[0, 0])
        return Parameters(self._num_updates, found.vector, found.buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these."""
        check_same_network(len(self._like.vector), parameters)
        if self._given is None:
            self._topology.set_values(flat_values(parameters)[None, None])
            self._topology.forget_snapshot()
        else:
            self._given = parameters

    def view(self) -> FleetView:
        """Workers, and their exchanges."""
        return self._topology.account.looks.view()

    def role_metrics(self) -> dict[str, float]:
        """The same."""
        return self._topology.account.looks.metrics()

    def measured(self) -> dict[str, float]:
        """Means over the workers; the replays' sizes in all."""
        names = set().union(*(report.extras for report in self._reports)) - {"updates"}
        found = {
            name: [report.extras[name] for report in self._reports if name in report.extras] for name in names
        }
        return {
            name if "/" in name else f"fleet/{name}": float(
                np.sum(values) if name == "replay/size" else np.mean(values)
            )
            for name, values in found.items()
        }

    def save_state(self) -> dict[str, Any]:
        """Values and workers."""
        return {
            "tables": self._topology.save_tables(),
            "workers": self._topology.save_state(),
            "updates": self._num_updates,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._given = None
        self._topology.load_tables(state["tables"])
        self._topology.load_state(state["workers"])
        self._num_updates = state["updates"]

    def close(self) -> None:
        """Ends the workers."""
        self._topology.close()
