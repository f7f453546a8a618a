"""REINFORCE on the surface of a table, for topologies that work in rounds: one worker's part is one update."""

from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.episodes import EpisodeActor, GatheredEpisodes
from qfleet.deep.members import worker_seed
from qfleet.deep.parameters import flat_values, from_flat_values
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import ReinforceLearner
from qfleet.deep.row_task import RowTask
from qfleet.tabular.learner import Advance
from qfleet.tabular.records import Table


class ReinforceMembers(Protocol):
    """Makes the members of a run; picklable."""

    def make_actor(self, config: ReinforceConfig, seed: int) -> EpisodeActor:
        """Environments of its own, and a policy to act with."""
        ...

    def make_learner(self, config: ReinforceConfig, seed: int) -> ReinforceLearner:
        """Networks with values drawn from the seed, and their optimizer."""
        ...


@final
@dataclass(frozen=True)
class ReinforceTask(RowTask):
    """What the workers of a policy learn, and with what."""

    members: ReinforceMembers
    config: ReinforceConfig

    @property
    def can_pause_anywhere(self) -> bool:
        """Between two updates no episode is under way."""
        return True

    @property
    def round_steps(self) -> int:
        """A round is an update, however many steps its episodes have."""
        return 1

    def make_learner(self, worker: int, table: Table, *, weighted: bool = False) -> "EpisodesLearner":
        """The learner of one worker."""
        return EpisodesLearner(self, worker, table)


@final
class EpisodesLearner:
    """One worker's environments and networks.

    The policy is in the table whenever nobody computes; the baseline, which begins alike everywhere, is not.
    """

    def __init__(self, task: ReinforceTask, worker: int, table: Table) -> None:
        self.task, self.table = task, table
        self.learner = task.members.make_learner(task.config, task.seed)
        self._actor = task.members.make_actor(task.config, worker_seed(task.seed, worker))

    def start(self) -> None:
        """Nothing: every update begins new episodes."""

    def begin_at(self, num_steps: int) -> None:
        """So many steps were made by all workers: the episodes that begin are others than the first."""
        self._actor.begin_at(num_steps)

    def advance(self, budget: int) -> Advance:
        """Makes updates alone until `budget` steps are made, to the end of one."""
        self.take_values()
        advance = Advance()
        while advance.steps < budget:
            gathered = self.gather()
            advance += advance_of(gathered)
            self.learner.apply(self.learner.gradient(gathered.episodes).vector)
        self.give_values()
        return advance

    def take_values(self) -> None:
        """From the table into the policy."""
        self.learner.warm_start(from_flat_values(self.learner.publish(), self.table.values[0, 0]))

    def give_values(self) -> None:
        """The reverse."""
        self.table.values[0, 0] = flat_values(self.learner.publish())

    def gather(self) -> GatheredEpisodes:
        """Plays the episodes of one update."""
        return self._actor.gather(self.learner.publish())

    def sample_pairs(self) -> NDArray[np.int64]:
        """Nothing of its values is anybody else's."""
        return np.empty(0, np.int64)

    def measured(self) -> dict[str, float]:
        """Updates, and the learner's means since the last call."""
        return {"updates": float(self.learner.num_updates)} | self.learner.take_statistics()

    def save_state(self) -> dict[str, Any]:
        """Everything but the values."""
        return {
            "updates": self.learner.num_updates,
            "learner": self.learner.save_state(),
            "actor": self._actor.pause(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self.learner.num_updates = state["updates"]
        self.learner.load_state(state["learner"])
        self._actor.resume(state["actor"])

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()


def advance_of(gathered: GatheredEpisodes) -> Advance:
    """What some episodes came to."""
    steps = gathered.num_steps
    return Advance(steps, len(gathered.returns), steps, float(sum(gathered.returns)))
