"""What a Training trains: the seam between the life of a run and the kind of values that learn in it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qfleet.evaluation import Evaluation
from qfleet.fleet_view import FleetView
from qfleet.runs.checkpoints import CheckpointStore


@dataclass(frozen=True)
class Progressed:
    """What happened since the last turn."""

    num_episodes: int
    """Training episodes that ended."""
    returns: tuple[float, ...]
    """Their returns, or (for tables) their mean return, once; empty if none ended."""
    lengths: tuple[float, ...]
    """Their lengths in steps."""
    largest_change: float | None = None
    """Of any value in the latest round, where the run was asked to watch it (--until-change)."""
    error: float | None = None
    """Largest distance from the exact fixed point, where it was due and is known."""
    is_partial: bool = False
    """Whether this was a part of a turn, ended by a clock: nothing is due that is to happen at the same step always."""


class Trainee(ABC):
    """Learns in turns; between two turns its state is complete."""

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Environment steps made so far, by all workers."""

    @property
    @abstractmethod
    def num_updates(self) -> int:
        """Learner updates made so far."""

    @property
    @abstractmethod
    def reward_threshold(self) -> float | None:
        """Mean greedy return at which the environment counts as solved, if it says so."""

    @property
    def keeps_best(self) -> bool:
        """Whether the run's values are those that did best in evaluation; else they are the latest."""
        return True

    @abstractmethod
    def prepare(self) -> None:
        """Does what is no training and need be done once: starts workers, compiles, solves exactly."""

    @abstractmethod
    def turns(self) -> Iterator[Progressed]:
        """Acts and learns for a while at each turn, until the run's steps are made."""

    @abstractmethod
    def exploration_rate(self) -> float:
        """Share of actions that are chosen at random now."""

    @abstractmethod
    def evaluate(self, num_episodes: int, seed: int, interrupted: Callable[[], bool]) -> Evaluation | None:
        """Plays greedy episodes with the values as they are now; None if interrupted meanwhile."""

    @abstractmethod
    def metrics(self, progressed: Progressed) -> dict[str, float]:
        """What else is worth a line in the metrics now (train/loss, replay/size, train/max_error, ...)."""

    def view(self) -> FleetView | None:
        """How the roles of its topology do now; None where there is nothing to tell. Cheap to call often."""
        return None

    @abstractmethod
    def between_checkpoints(self, store: CheckpointStore) -> None:
        """May write ahead what the next checkpoint needs."""

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """All of its state, as a checkpoint takes it; the key `run` is taken."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `save_state` returned, instead of from the beginning."""

    @abstractmethod
    def values_state(self) -> dict[str, Any]:
        """The values alone, as the best checkpoint takes them; the key `mean_return` is taken."""

    def evaluated_state(self) -> dict[str, Any]:
        """The values that were evaluated last, in the same form; where workers rest meanwhile, those of now."""
        return self.values_state()

    @staticmethod
    @abstractmethod
    def values_of(state: dict[str, Any]) -> dict[str, Any]:
        """The values in what `save_state` returned, as `values_state` gives them."""

    @abstractmethod
    def load_values(self, state: dict[str, Any]) -> None:
        """Takes values from `values_state`, for the final evaluation or as a warm start."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What the summary says beyond what all runs say (for tables: max_error, optimal_return, imbalance, ...)."""

    @abstractmethod
    def close(self) -> None:
        """Ends workers and environments; safe to call twice."""
