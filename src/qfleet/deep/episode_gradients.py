"""REINFORCE in a worker whose parameters are somebody else's: whole episodes, and their gradient."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.gradient_sources import Contribution, GradientSource
from qfleet.deep.members import worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_task import ReinforceMembers


@final
class EpisodeGradients(GradientSource):
    """Plays an update's episodes with the policy given; parameters are the policy's, then the baseline's."""

    def __init__(
        self, members: ReinforceMembers, config: ReinforceConfig, seed: int, rank: int, incarnation: int
    ) -> None:
        self._learner = members.make_learner(config, seed)
        self._actor = members.make_actor(config, worker_seed(seed, rank, incarnation))

    def start(self) -> None:
        """Nothing: every update begins new episodes."""

    def take(self, version: int, vector: NDArray[np.float32]) -> None:
        """Both networks' parameters."""
        self._learner.set_parameters(Parameters(version, vector, self.buffers()))

    def contribute(self, max_steps: int, progress: float) -> Contribution:
        """Whole episodes, however many steps they have, and their gradient."""
        gathered = self._actor.gather(self._learner.publish())
        found = self._learner.gradient(gathered.episodes)
        returns, lengths = tuple(gathered.returns), tuple(map(float, gathered.lengths))
        loss, gradient = found.losses.policy, found.vector
        return Contribution(gathered.num_steps, len(returns), returns, lengths, loss, gradient)

    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """Its episodes are others than those of the worker before it, whose seed it does not have."""
        self._learner.set_parameters(parameters)

    def repeat(self, num_gradients: int) -> None:
        """Nothing: episodes are gone once they are learned from."""

    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""
        return self._learner.publish().buffers

    def save_state(self) -> dict[str, Any]:
        """Counters: between two contributions no episode is under way."""
        return {"actor": self._actor.pause()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._actor.resume(state["actor"])

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()
