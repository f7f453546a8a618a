"""What a topology of networks offers to the run: turns of acting and learning, and values between two of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qfleet.deep.parameters import Parameters
from qfleet.fleet_view import FleetView
from qfleet.replay.ring import Ring


@dataclass(frozen=True)
class Turn:
    """What one turn brought."""

    num_episodes: int
    """Training episodes that ended."""
    returns: tuple[float, ...]
    """Their returns, or their mean return, once; empty if none ended."""
    lengths: tuple[float, ...]
    """Their lengths in steps, likewise."""
    is_partial: bool = False
    """Whether it is a part of one, ended by a clock: nothing is due that is to happen at the same step always."""


def merged(turns: Sequence[Turn]) -> Turn:
    """Several turns as one; where only the means of some are known, it is the mean of all."""
    episodes = sum(turn.num_episodes for turn in turns)
    if all(len(turn.returns) == turn.num_episodes for turn in turns):
        returns = tuple(value for turn in turns for value in turn.returns)
        return Turn(episodes, returns, tuple(value for turn in turns for value in turn.lengths))
    ended = [turn for turn in turns if turn.num_episodes]
    weights = [turn.num_episodes / episodes for turn in ended]
    returns, lengths = ([np.mean(getattr(turn, name)) for turn in ended] for name in ("returns", "lengths"))
    return Turn(episodes, (float(np.dot(weights, returns)),), (float(np.dot(weights, lengths)),))


class Topology(ABC):
    """Who learns and what they tell one another; between two turns its state is complete."""

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Environment steps made so far, by all workers."""

    @property
    @abstractmethod
    def num_updates(self) -> int:
        """Optimizer steps made so far."""

    def exploration_rate(self) -> float | None:
        """Share of random actions now, where workers have rates of their own: their mean; None: as the settings say."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Starts what is not started yet."""

    @abstractmethod
    def turns(self) -> Iterator[Turn]:
        """Acts and learns for a while at each turn, until the run's steps are made."""

    @abstractmethod
    def parameters(self) -> Parameters:
        """What has been learned, to act with."""

    @abstractmethod
    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these; raises QfleetError if they are of another network."""

    @abstractmethod
    def measured(self) -> dict[str, float]:
        """What is worth a line in the metrics, by name; means since the last call."""

    def view(self) -> FleetView | None:
        """How its roles do now; None where there is only one, or nothing to tell yet. Cheap to call often."""
        return None

    def role_metrics(self) -> dict[str, float]:
        """The same for the metrics, by name: since the last call."""
        return {}

    def rings(self) -> dict[str, Ring]:
        """What of its state is large, and so written in segments: rows that never change."""
        return {}

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """All of its state but the rings' rows; may add to these."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `save_state` returned, instead of from the beginning; the rings were filled already."""

    @abstractmethod
    def close(self) -> None:
        """Ends its workers and closes their environments."""
