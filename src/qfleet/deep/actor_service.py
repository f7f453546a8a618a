"""An actor as a service: its driver learns what it did; the block goes to the replay without passing there."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from qfleet.deep.actor import Actor
from qfleet.deep.parameters import Parameters
from qfleet.fleet import Answer


@final
@dataclass(frozen=True)
class GatherReport:
    """What one block of acting brought, but for the block itself."""

    num_steps: int
    """Environment steps in the block, over all environments."""
    num_transitions: int
    """Transitions in the block."""
    returns: list[float]
    """Of the episodes that ended, unclipped and undiscounted."""
    lengths: list[int]
    """Their steps."""
    version: int
    """Of the parameters acted with."""

    @property
    def num_episodes(self) -> int:
        """That ended."""
        return len(self.returns)

    def staleness(self, num_updates: int) -> int:
        """Updates made since the parameters in use were published."""
        return num_updates - self.version


@final
class ActorService:
    """Makes an actor where it will live, which tells its caller what it did, and gives the block to others."""

    def __init__(self, make_actor: Callable[[], Actor]) -> None:
        """`make_actor` must be picklable where the service is to live in another process."""
        self._actor = make_actor()
        self._error: Exception | None = None
        """What the environments have raised: frames are missing from then on."""

    def start(self) -> None:
        """Begins a new episode in every environment."""
        self._actor.start()

    def gather(self, parameters: Parameters, max_steps: int, max_seconds: float = math.inf) -> Answer:
        """Acts for one block, or until `max_steps` steps are made or `max_seconds` are over if that is sooner.

        Tells a GatherReport, and gives the Block. What the environments raise is raised again by every later call,
        until `begin_anew`.
        """
        if self._error is not None:
            raise self._error
        try:
            gathered = self._actor.gather(parameters, max_steps, max_seconds=max_seconds)
        except Exception as error:
            self._error = error
            raise
        num_transitions = len(gathered.block.transitions["frame"])
        report = GatherReport(
            gathered.num_steps, num_transitions, gathered.returns, gathered.lengths, gathered.version
        )
        return Answer(report, gathered.block)

    def pause(self) -> Answer:
        """Tells everything the next block depends on but the parameters, and gives what belongs before the pause."""
        return Answer(*self._actor.pause())

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on, in a newly made actor, from what `pause` returned."""
        self._actor.resume(state)

    def begin_anew(self) -> int:
        """Breaks all episodes off, for a replay that has nothing of theirs; the number of the first new frame."""
        self._error = None
        return self._actor.begin_anew()

    def close(self) -> None:
        """Closes the environments."""
        self._actor.close()
