"""REINFORCE, serial and data parallel: every worker plays its own episodes, the mean of all gradients is applied.

N workers with M episodes each make the updates of one with N * M, as a gradient is a mean over episodes (Williams
1992). Gradients travel as one flat vector, added in the order of the ranks, so that parameters and optimizer stay
equal, bit for bit, without being sent. One worker alone is serial.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from qfleet.deep.reinforce_task import EpisodesLearner, ReinforceTask, advance_of
from qfleet.fleet import Fleet, Group
from qfleet.tabular.learner import Advance
from qfleet.topologies.equal_workers import EqualWorker, EqualWorkers, EqualWorkersConfig
from qfleet.topologies.restarts import Restarts


@dataclass(frozen=True)
class EpisodesConfig(EqualWorkersConfig):
    """How long a silent worker is waited for."""


@final
class EpisodesWorker(EqualWorker[EpisodesLearner]):
    """Plays in its own environments, and learns with all others."""

    def __init__(self, task: ReinforceTask, config: EpisodesConfig, group: Group) -> None:
        super().__init__(task, group)

    def _round(self, until_steps: int) -> Advance:
        """Gather, gradient, mean of all workers' gradients, apply."""
        learner = self._learner
        gathered = learner.gather()
        learner.learner.apply(self._mean(learner.learner.gradient(gathered.episodes).vector))
        self.num_steps += int(self._group.all_reduce(np.array([gathered.num_steps]), "sum")[0])
        return advance_of(gathered)


@final
class DataParallelEpisodes(EqualWorkers):
    """As many equal learners as workers."""

    def __init__(
        self, fleet: Fleet, task: ReinforceTask, config: EpisodesConfig, restarts: Restarts | None = None
    ) -> None:
        super().__init__(fleet, task, EpisodesWorker, config, restarts)
