"""What a topology of tables offers to the run: turns as long as it asks for, and the table between two of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from qfleet.fleet_view import FleetView
from qfleet.tabular.learner import Advance
from qfleet.topologies.metering import NOTHING_READ, Reading


@dataclass(frozen=True)
class RoundsReport:
    """What one worker did when told to advance."""

    advance: Advance
    num_steps: int
    """Steps of all workers since the run's beginning."""
    rounds: int = 0
    largest_change: float | None = None
    """Of any value in the last round, if it was asked for."""
    extras: dict[str, float] = field(default_factory=dict)
    """What the topology measures: imbalance, parked fraction, lost updates, ..."""
    reading: Reading = NOTHING_READ
    """Of the worker's meter, of these rounds."""


class TableLearning(ABC):
    """Who learns and what they tell one another; between two calls of `advance` its state is complete."""

    num_steps: int
    """Of all workers."""

    @property
    def num_updates(self) -> int:
        """Of all workers: every step is learned from."""
        return self.num_steps

    @abstractmethod
    def prepare(self) -> None:
        """Lets the workers compile and begin, if they have not."""

    @abstractmethod
    def advance(self, until_steps: int, until_change: float | None = None) -> list[RoundsReport]:
        """Learns until `until_steps` steps are made in all, or values change no more; what the workers did since."""

    def come_to_rest(self) -> None:
        """Lets what is under way come to its end, so that values stay as they are until `advance`; rounds are ended."""
        return

    @abstractmethod
    def view(self) -> FleetView | None:
        """How its roles do now; None where there is nothing to tell yet."""

    @abstractmethod
    def role_metrics(self) -> dict[str, float]:
        """The same for the metrics, by name: since the last call."""

    @abstractmethod
    def values(self) -> NDArray[Any]:
        """(num_tables, num_states, num_actions): the merged table; a view where that is possible."""

    @abstractmethod
    def set_values(self, values: NDArray[Any]) -> None:
        """Puts values (num_tables, num_states, num_actions) into every worker's table."""

    @abstractmethod
    def forget_snapshot(self) -> None:
        """What the workers hold was changed by other means than `advance`."""

    @abstractmethod
    def save_tables(self) -> dict[str, Any]:
        """The values: {"values": (num_tables, num_states, num_actions)}, or shards of it."""

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """Everything but the values."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `save_state`."""

    @abstractmethod
    def end(self) -> None:
        """Ends the workers at once, where they can be replaced."""

    @abstractmethod
    def close(self) -> None:
        """Lets the workers free what they hold."""
