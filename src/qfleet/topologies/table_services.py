"""Tables under the topologies of services: what these call parameters is a table here."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.parameters import Parameters
from qfleet.fleet_view import FleetView
from qfleet.tabular.learner import Advance
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.table_learning import RoundsReport, TableLearning
from qfleet.topologies.topology import Turn


@final
class TableServices(TableLearning):
    """A topology of services that is driven as those of rounds are."""

    def __init__(self, topology: ServicesTopology, shape: tuple[int, int, int], total_steps: int) -> None:
        """`shape` is the table's, whose entries the topology's parameters are."""
        self._topology, self._shape, self._total_steps = topology, shape, total_steps
        self._turns = topology.turns()
        self.num_steps = 0

    @property
    def num_updates(self) -> int:
        """As the topology counts them: every step is learned from, but not in an update of its own."""
        return self._topology.num_updates

    def prepare(self) -> None:
        """Lets the members compile and begin."""
        self._topology.prepare()

    def advance(self, until_steps: int, until_change: float | None = None) -> list[RoundsReport]:
        """Turns until so many steps are made; in the last one, what is under way comes to its end."""
        assert until_change is None, "there are no rounds in which nothing changes"
        before, advance = self._topology.num_steps, Advance()
        while self._topology.num_steps < min(until_steps, self._total_steps):
            advance += _advance_of(next(self._turns))
        self.num_steps = self._topology.num_steps
        advance += Advance(steps=self.num_steps - before)
        measured = {name.partition("/")[2]: value for name, value in self._topology.measured().items()}
        return [RoundsReport(advance, self.num_steps, extras=measured)]

    def come_to_rest(self) -> None:
        """See `TableLearning.come_to_rest`."""
        self._topology.come_to_rest()
        self.num_steps = self._topology.num_steps

    def view(self) -> FleetView | None:
        """The topology's."""
        return self._topology.view()

    def role_metrics(self) -> dict[str, float]:
        """The topology's."""
        return self._topology.role_metrics()

    def values(self) -> NDArray[Any]:
        """The table that the topology's parameters are."""
        return self._topology.parameters().vector.reshape(self._shape)

    def set_values(self, values: NDArray[Any]) -> None:
        """Gives it to all who have one."""
        self._topology.set_parameters(Parameters(0, np.ascontiguousarray(values).reshape(-1)))

    def forget_snapshot(self) -> None:
        """The topology's own snapshots hold more than values; it takes them itself."""

    def save_tables(self) -> dict[str, Any]:
        """The values."""
        return {"values": self.values()}

    def save_state(self) -> dict[str, Any]:
        """All members' state, in which the values are, too."""
        return {"num_steps": self.num_steps, "members": self._topology.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._topology.load_state(state["members"])
        self.num_steps = state["num_steps"]

    def end(self) -> None:
        """Those that are left free what they hold."""
        self._topology.close()

    def close(self) -> None:
        """Lets the members free what they hold."""
        self._topology.close()


def _advance_of(turn: Turn) -> Advance:
    """Of its episodes."""
    if not turn.num_episodes:
        return Advance()
    lengths, returns = float(np.mean(turn.lengths)), float(np.mean(turn.returns))
    episodes = turn.num_episodes
    return Advance(episodes=episodes, episode_steps=round(lengths * episodes), returns=returns * episodes)
