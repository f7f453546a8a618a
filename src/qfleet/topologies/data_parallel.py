"""Data parallel: every worker acts and learns with the same parameters, and each update is made with the mean gradient.

N workers with minibatches of B transitions, each from its own replay, make the updates of one with N * B
(Dean et al. 2012, section 4; synchronous: Chen et al. 2016, arXiv 1604.00981). Gradients travel as one flat vector,
added in the order of the ranks, so that parameters and optimizer stay equal, bit for bit, without being sent. Where
every worker has a GPU of its own they are added there, in NCCL's order, which is one for all.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.task import NetworkLearner, NetworkTask
from qfleet.deep.whereabouts import have_gpus_of_their_own
from qfleet.fleet import Fleet, Group
from qfleet.replay.replay import Batch
from qfleet.tabular.learner import Advance
from qfleet.topologies.checks import refuse_below
from qfleet.topologies.equal_workers import EqualWorker, EqualWorkers, EqualWorkersConfig
from qfleet.topologies.restarts import Restarts

if TYPE_CHECKING:
    from qfleet.deep.learning_together import LearningTogether


@dataclass(frozen=True)
class DataParallelConfig(EqualWorkersConfig):
    """How long the turns of acting are, and how long a silent worker is waited for."""

    block_steps: int = 64
    """Steps of each worker between two turns of learning, rounded up to whole steps of its environments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(self, 1, "block_steps")


@final
class DataParallelWorker(EqualWorker[NetworkLearner]):
    """Acts in its own environments, and learns with all others."""

    def __init__(self, task: NetworkTask, config: DataParallelConfig, group: Group) -> None:
        super().__init__(task.on_own_gpu(group), group)
        may_be_on_gpu = task.members.may_be_on_gpu and group.size > 1
        self._config, self._on_gpus = config, self._met_on_gpus() if may_be_on_gpu else None

    def _met_on_gpus(self) -> "LearningTogether | None":
        """If every worker has one of its own."""
        learner = self._learner.learner
        if not have_gpus_of_their_own(self._group, learner.gpu):
            return None
        # PyTorch is imported only by the runs that need it.
        from qfleet.deep.learning_together import LearningTogether

        return LearningTogether(learner, self._group, self._config.stall_timeout_seconds)

    def _round(self, until_steps: int) -> Advance:
        """Act, store, and make the updates due, each with the mean of all workers' gradients."""
        learner, workers = self._learner, self._group.size
        steps = min(self._config.block_steps * workers, self.task.total_steps - self.num_steps)
        advance = learner.gather(self.share(steps))
        self.num_steps += steps
        for _ in range(self._num_due()):
            batch = learner.draw()
            learner.prioritize(batch, self._learn(batch))
        return advance

    def _learn(self, batch: Batch) -> NDArray[np.float32]:
        """An update with the mean of all workers' gradients; the TD errors of this one's minibatch."""
        if self._on_gpus is not None:
            return self._on_gpus.learn(batch)
        learner = self._learner.learner
        gradient = learner.gradient(batch)
        learner.apply(replace(gradient, vector=self._mean(gradient.vector)))
        return gradient.td_errors

    def _num_due(self) -> int:
        """What is due for the steps of one worker, once every replay has something."""
        due = self._learner.config.updates_due(self.num_steps // self._group.size)
        due = max(0, due - self._learner.learner.num_updates) if len(self._learner.replay) else 0
        return int(self._group.all_reduce(np.array([due]), "min")[0])

    def close(self) -> None:
        """Closes its environments, and leaves the other GPUs."""
        super().close()
        if self._on_gpus is not None:
            self._on_gpus.close()


@final
class DataParallel(EqualWorkers):
    """As many equal learners as workers."""

    def __init__(
        self, fleet: Fleet, task: NetworkTask, config: DataParallelConfig, restarts: Restarts | None = None
    ) -> None:
        super().__init__(fleet, task, DataParallelWorker, config, restarts)
