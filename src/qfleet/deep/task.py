"""A Q-network, its environments and its replay on the surface of a table, for topologies that work in rounds."""

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.members import Members, share_of, worker_seed
from qfleet.deep.parameters import Parameters, flat_values, from_flat_values
from qfleet.deep.row_task import RowTask
from qfleet.deep.whereabouts import local_rank
from qfleet.fleet import Group
from qfleet.replay.replay import Batch
from qfleet.tabular.learner import Advance
from qfleet.tabular.records import Table

ROUND_STEPS = 256


@final
@dataclass(frozen=True)
class NetworkTask(RowTask):
    """What the workers of a Q-network learn, and with what."""

    members: Members
    config: DQNConfig
    """Of the whole run."""
    block_steps: int
    """Steps of a worker between two turns of learning."""

    @property
    def can_pause_anywhere(self) -> bool:
        """Environments that cannot be saved begin their episodes anew at a pause."""
        return False

    @property
    def round_steps(self) -> int:
        """Steps of each worker between two merges, if nothing else is asked for."""
        return ROUND_STEPS

    def on_own_gpu(self, group: Group) -> "NetworkTask":
        """The same for one of a group's members, who take the GPUs of their machine in turn; all call it together."""
        if not self.members.may_be_on_gpu:
            return self
        return replace(self, members=self.members.on_gpu(local_rank(group)))

    def make_learner(self, worker: int, table: Table, *, weighted: bool = False) -> "NetworkLearner":
        """The learner of one worker."""
        return NetworkLearner(self, worker, table)


@final
class NetworkLearner:
    """One worker's environments, replay and network; between two calls of `advance` its values are in the table."""

    def __init__(self, task: NetworkTask, worker: int, table: Table) -> None:
        self.task, self.table = task, table
        self.config = share_of(task.config, task.num_workers)
        seed = worker_seed(task.seed, worker)
        self.learner = task.members.make_learner(self.config, seed)
        self.replay = task.members.make_replay(self.config, task.block_steps)
        self._actor = task.members.make_actor(self.config, seed, task.block_steps)
        self._planned_steps = 0

    def start(self) -> None:
        """Begins the first episodes, with the target network at the values given."""
        self.learner.warm_start(self._given())
        self._actor.start()

    def begin_at(self, num_steps: int) -> None:
        """So many steps were made by all workers: exploration and learning go on from there."""
        self._planned_steps = self._actor.num_steps = num_steps // self.task.num_workers
        self.learner.num_updates = self.config.updates_due(self._planned_steps)

    def advance(self, budget: int) -> Advance:
        """Acts and learns in turns for `budget` steps, to the end of a step of all its environments."""
        self.take_values()
        advance, until = Advance(), self._planned_steps + budget
        while self._planned_steps < until:
            advance += self.gather(min(self.task.block_steps, until - self._planned_steps))
            if self.num_due > 0:
                self.learner.learn(self.replay.view(), self.num_due, self._importance_exponent())
        self.give_values()
        return advance

    def take_values(self) -> None:
        """From the table into the network; the target network stays."""
        self.learner.set_parameters(self._given())

    def give_values(self) -> None:
        """The reverse."""
        self.table.values[0, 0] = flat_values(self.learner.publish())

    def _given(self) -> Parameters:
        return from_flat_values(self.learner.publish(), self.table.values[0, 0])

    def gather(self, steps: int) -> Advance:
        """Acts for so many steps, less what the last vector step was too many, and stores what came."""
        self._planned_steps += steps
        advance, parameters = Advance(), self.learner.publish()
        while (left := self._planned_steps - self._actor.num_steps) > 0:
            gathered = self._actor.gather(parameters, left)
            self.replay.append(gathered.block)
            returns, lengths = gathered.returns, gathered.lengths
            advance += Advance(gathered.num_steps, len(returns), sum(lengths), float(sum(returns)))
        return advance

    @property
    def num_due(self) -> int:
        """Updates owed for the steps so far; the same for all workers that have been told of the same steps."""
        due = self.config.updates_due(self._planned_steps) - self.learner.num_updates
        return due if len(self.replay) else 0

    def draw(self) -> Batch:
        """The next update's minibatch, from its own replay."""
        return self.learner.draw(self.replay.view(), self._importance_exponent())

    def _importance_exponent(self) -> float:
        progress = self._planned_steps * self.task.num_workers / self.task.total_steps
        return self.config.importance_exponent_at(progress)

    def prioritize(self, batch: Batch, td_errors: NDArray[np.float32]) -> None:
        """Gives what was drawn from its own replay the priorities of its new TD errors (batch,)."""
        self.learner.prioritize(self.replay.view(), batch, td_errors)

    def sample_pairs(self) -> NDArray[np.int64]:
        """Nothing of its values is anybody else's."""
        return np.empty(0, np.int64)

    def measured(self) -> dict[str, float]:
        """Updates, transitions held, and the learner's means since the last call."""
        counts = {"updates": float(self.learner.num_updates), "replay/size": float(len(self.replay))}
        return counts | self.learner.take_statistics()

    def save_state(self) -> dict[str, Any]:
        """Everything but the values."""
        actor, block = self._actor.pause()
        self.replay.append(block)
        return {
            "planned_steps": self._planned_steps,
            "updates": self.learner.num_updates,
            "learner": self.learner.save_state(),
            "actor": actor,
            "replay": self.replay.save_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._planned_steps, self.learner.num_updates = state["planned_steps"], state["updates"]
        self.learner.load_state(state["learner"])
        self._actor.resume(state["actor"])
        self.replay.load_state(state["replay"])

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()
