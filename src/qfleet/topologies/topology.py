"""What a deep topology is given and what it offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qfleet.deep.actor import Actor, Gathered
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.fleet import Fleet
from qfleet.replay.replay import Replay


@dataclass(frozen=True)
class Team:
    """The members a topology arranges."""

    config: DQNConfig
    learner: Learner
    replay: Replay
    make_actor: Callable[[], Actor]
    fleet: Fleet
    max_steps: int
    """Environment steps after which acting ends."""

    def learn_due(self, num_steps: int) -> None:
        """The limiter: makes the updates still owed for `num_steps` steps, from the replay as it stands."""
        due = self.config.updates_due(num_steps) - self.learner.num_updates
        if due > 0 and len(self.replay) > 0:
            self.learner.learn(self.replay.view(), due, self._importance_exponent(num_steps))

    def _importance_exponent(self, num_steps: int) -> float:
        """From the configured value to 1 over the run (Schaul et al. 2016, section 3.4)."""
        start = self.config.importance_exponent
        return start + (1 - start) * min(1.0, num_steps / self.max_steps)


class Topology(ABC):
    """Who learns and what they tell one another; between two blocks its state is complete."""

    num_steps: int
    """Environment steps made so far."""

    @abstractmethod
    def blocks(self) -> Iterator[Gathered]:
        """Acts and learns for one block at each turn, until `max_steps` steps are made."""

    @abstractmethod
    def pause(self) -> dict[str, Any]:
        """The state of its actors, between blocks; may add to the replay."""

    @abstractmethod
    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from what `pause` returned, instead of from the beginning."""

    @abstractmethod
    def close(self) -> None:
        """Closes its actors' environments."""
