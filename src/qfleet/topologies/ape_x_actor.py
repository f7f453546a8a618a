"""Ape-X's actors: each its own rung of a ladder of epsilons, and first priorities for what it gathers."""

from dataclasses import replace
from functools import partial
from typing import Any, final

from qfleet.deep.actor_service import ActorService
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.fleet import Answer
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.parameter_board import ParameterBoard

_EPSILON_BASE, _EPSILON_EXPONENT = 0.4, 7.0


def ladder(config: DQNConfig, actor: int, num_actors: int) -> DQNConfig:
    """The settings of one actor, whose epsilon stays as it is (Horgan et al. 2018, section 4.1)."""
    position = actor / (num_actors - 1) if num_actors > 1 else 0.0
    epsilon = _EPSILON_BASE ** (1 + _EPSILON_EXPONENT * position)
    return replace(config, exploration_initial=epsilon, exploration_final=epsilon, exploration_steps=0)


@final
class ApeXActor:
    """Environments, a policy that follows the board, and first priorities."""

    def __init__(
        self, run: NetworkRun, config: ApeXConfig, board: ParameterBoard, number: int, incarnation: int
    ) -> None:
        own = ladder(run.config, number, run.num_workers)
        seed, prioritizes = worker_seed(run.seed, number, incarnation), own.priority_exponent > 0
        make = partial(run.members.make_actor, own, seed, config.block_steps, makes_priorities=prioritizes)
        self._actor, self._board, self._parameters = ActorService(make), board, run.initial
        self._block_seconds = config.block_seconds

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def answer(self) -> None:
        """It is there."""

    def gather(self, max_steps: int) -> Answer:
        """A block with the newest parameters: see `ActorService.gather`."""
        self._parameters = self._board.newest(self._parameters.version) or self._parameters
        return self._actor.gather(self._parameters, max_steps, self._block_seconds)

    def begin_anew(self) -> int:
        """Breaks its episodes off, as what it wrote is lost; the number of the next frame."""
        return self._actor.begin_anew()

    def save_state(self) -> Answer:
        """Tells its environments, and gives the block that belongs before them."""
        return self._actor.pause()

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._actor.resume(state)

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()
