"""What topologies have in common whose one learner and replay live in the driver's process."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qfleet.deep.actor import Actor, Gathered
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.parameters import Parameters
from qfleet.fleet import Fleet
from qfleet.replay.replay import Replay
from qfleet.replay.ring import Ring
from qfleet.topologies.topology import Topology, Turn


@dataclass(frozen=True)
class Team:
    """The members that the topology arranges."""

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
            exponent = self.config.importance_exponent_at(num_steps / self.max_steps)
            self.learner.learn(self.replay.view(), due, exponent)


class OneLearner(Topology):
    """One learner, one actor; what happens when is the subclass's `blocks`."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._begun = False

    @property
    def num_updates(self) -> int:
        """Optimizer steps made so far."""
        return self._team.learner.num_updates

    def prepare(self) -> None:
        """Kernels are compiled by the first block."""

    @abstractmethod
    def blocks(self) -> Iterator[Gathered]:
        """Acts and learns for one block at each turn, until `max_steps` steps are made."""

    def turns(self) -> Iterator[Turn]:
        """A block at each turn."""
        for gathered in self.blocks():
            lengths = tuple(float(length) for length in gathered.lengths)
            yield Turn(len(lengths), tuple(gathered.returns), lengths)

    def parameters(self) -> Parameters:
        """The learner's."""
        return self._team.learner.publish()

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to the learner."""
        self._team.learner.warm_start(parameters)

    def measured(self) -> dict[str, float]:
        """The replay's size, and the learner's own."""
        return {"replay/size": float(len(self._team.replay))} | self._team.learner.take_statistics()

    def rings(self) -> dict[str, Ring]:
        """The replay's."""
        return {"frames": self._team.replay.frames, "transitions": self._team.replay.transitions}

    @abstractmethod
    def _pause(self) -> dict[str, Any]:
        """The state of the actor, between blocks; may add to the replay."""

    @abstractmethod
    def _resume(self, state: dict[str, Any]) -> None:
        """The reverse."""

    def save_state(self) -> dict[str, Any]:
        """Actor, learner and priorities."""
        team = self._team
        return {
            "actor": self._pause(),  # first: it may add to the replay
            "updates": team.learner.num_updates,
            "learner": team.learner.save_state(),
            "priorities": team.replay.save_priorities(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        team = self._team
        team.learner.num_updates = state["updates"]
        team.learner.load_state(state["learner"])
        team.replay.load_priorities(state["priorities"])
        self._resume(state["actor"])
        self._begun = True
