"""Serial: one thread acts for a block, then learns from everything gathered so far (Mnih et al. 2015)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from qfleet.deep.actor import Gathered
from qfleet.errors import QfleetError
from qfleet.topologies.topology import Team, Topology


@dataclass(frozen=True)
class SerialConfig:
    """How long the turns are."""

    block_steps: int = 64
    """Steps between two turns of learning, rounded up to whole steps of the vector environment."""

    def __post_init__(self) -> None:
        if self.block_steps < 1:
            raise QfleetError(f"block_steps is {self.block_steps}; it must be at least 1")


@final
class Serial(Topology):
    """Acting and learning take turns."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._actor = team.make_actor()
        self._begun = False

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Environment steps made so far."""
        return self._actor.num_steps

    def blocks(self) -> Iterator[Gathered]:
        """Act, store, learn."""
        team, actor = self._team, self._actor
        if not self._begun:
            actor.start()
        while actor.num_steps < team.max_steps:
            gathered = actor.gather(team.learner.publish(), team.max_steps - actor.num_steps)
            team.replay.append(gathered.block)
            team.learn_due(actor.num_steps)
            yield gathered

    def pause(self) -> dict[str, Any]:
        """The actor's state."""
        state, block = self._actor.pause()
        self._team.replay.append(block)
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on with the actor's state."""
        self._actor.resume(state)
        self._begun = True

    def close(self) -> None:
        """Closes the actor's environments."""
        self._actor.close()
