"""Async-n-step: workers learn from rollouts of their own in one network that all share, without locks, with no replay.

    every worker, at its own pace, until all have made the run's steps:
        θ' ← θ                                                          a copy, to act with
        act for t_max steps, ε-greedily by Q(·; θ')                     ε falls to a value of this worker's own
        R ← 0 where the episode terminated, else max_a Q(s, a; θ⁻)
        for the steps from the last to the first:  R ← r + γ R;  add ∂(R − Q(s, a; θ))² / ∂θ to the gradient
        change θ with the gradient                                      without locks
        every so many updates of all workers:  θ⁻ ← θ

Asynchronous n-step Q-learning, Mnih et al. 2016, arXiv 1602.01783, algorithm S2. θ, θ⁻ and the optimizer's moments lie
in memory that all workers have; on backends without such memory the same workers push to a parameter server.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.deep.rollouts import Rollouts, explorer
from qfleet.fleet import Fleet, Future
from qfleet.replay.replay import Batch
from qfleet.topologies.account import Done
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.topology import Turn

_SPAN_SECONDS = 0.2
"""For which a worker works before it answers its driver: signals are heard, and state is saved, between two."""
_NEVER = 2**62


@dataclass(frozen=True)
class AsyncNStepConfig:
    """How long a rollout is, and how long a silent worker is waited for."""

    rollout_steps: int = 5
    """Steps of each environment between two updates (t_max); returns have 1 to so many rewards."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer is lost."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "rollout_steps")
        refuse_no_patience(self)


class Memory(NamedTuple):
    """What all workers see, and write to without locks."""

    vectors: NDArray[np.float32]
    """(4, num_parameters): θ, θ⁻, and the optimizer's moments."""
    steps: NDArray[np.int64]
    """(num_workers,): made by each."""
    updates: NDArray[np.int64]
    """(num_workers,): made by each."""
    target_moves: NDArray[np.int64]
    """(1,): made by all."""

    @property
    def num_updates(self) -> int:
        """Of all workers."""
        return int(self.updates.sum())


def make_memory(fleet: Fleet, num_parameters: int, num_workers: int) -> Memory:
    """Zeroed."""
    return Memory(
        fleet.shared_array((4, num_parameters), np.float32),
        fleet.shared_array((num_workers,), np.int64),
        fleet.shared_array((num_workers,), np.int64),
        fleet.shared_array((1,), np.int64),
    )


@dataclass(frozen=True)
class Worked:
    """What a worker did in a span of time."""

    num_steps: int
    """Made by the worker, since the run's beginning."""
    returns: tuple[float, ...]
    """Of the episodes that ended."""
    lengths: tuple[float, ...]
    statistics: dict[str, float]
    """Means over its updates; empty if there was none."""


@final
class AsyncNStepWorker:
    """Environments of its own, and the network that all share."""

    def __init__(
        self,
        run: NetworkRun,
        config: AsyncNStepConfig,
        num_envs: int,
        memory: Memory,
        rank: int,
        incarnation: int,
    ) -> None:
        self._memory, self._rank = memory, rank
        self._target_every = run.config.target_update_every_updates
        # When the target moves is decided by the updates of all, below.
        own = replace(explorer(run, rank), target_update_every_updates=_NEVER)
        seed = worker_seed(run.seed, rank, incarnation)
        self._rollouts = Rollouts(run.members, own, config.rollout_steps, num_envs, seed)
        self._learner = run.members.make_learner(own, seed)
        self._learner.warm_start(run.initial)
        self._learner.share(memory.vectors)

    def start(self) -> None:
        """Begins the first episodes."""
        self._rollouts.begin_at(int(self._memory.steps[self._rank]))
        self._rollouts.start()

    def answer(self) -> None:
        """It is there."""

    def work(self, max_steps: int, seconds: float) -> Worked:
        """Rollouts and updates until so many steps are made, or so much time has passed; at least one rollout."""
        returns: list[float] = []
        lengths: list[float] = []
        memory, rank, until = self._memory, self._rank, time.monotonic() + seconds
        last = int(memory.steps[rank]) + max_steps
        while True:
            gathered, batch = self._rollouts.gather(self._learner, last - int(memory.steps[rank]))
            memory.steps[rank] += gathered.num_steps
            returns += gathered.returns
            lengths += gathered.lengths
            if batch is not None:
                self.update(batch)
            if memory.steps[rank] >= last or time.monotonic() >= until:
                break
        statistics = self._learner.take_statistics()
        return Worked(int(memory.steps[rank]), tuple(returns), tuple(lengths), statistics)

    def update(self, batch: Batch) -> None:
        """One step of the optimizer; moves the target network if the updates of all workers have come so far."""
        memory, learner = self._memory, self._learner
        learner.num_updates = memory.num_updates
        learner.learn_batch(batch)
        memory.updates[self._rank] += 1
        due = memory.num_updates // self._target_every
        if memory.target_moves[0] < due:  # two workers may both see it, and move it twice in a row
            memory.target_moves[0] = due
            learner.move_target()

    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""
        return self._learner.publish().buffers

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these, as all others do."""
        self._learner.warm_start(parameters)

    def save_state(self) -> dict[str, Any]:
        """What is its own: environments, and a module's buffers."""
        return {"rollouts": self._rollouts.save_state(), "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse; the shared values are those of the worker that was saved last, as all had the same."""
        self._rollouts.load_state(state["rollouts"])
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._rollouts.close()


@final
class AsyncNStep(ServicesTopology):
    """Starts the workers, and hears from each a few times a second; what they learn it sees in the memory."""

    def __init__(
        self, fleet: Fleet, run: NetworkRun, config: AsyncNStepConfig, num_envs: int, restarts: Restarts
    ) -> None:
        self._run = run
        self._memory = make_memory(fleet, len(run.initial.vector), run.num_workers)
        self._memory.vectors[:2] = run.initial.vector
        makers = [
            partial(AsyncNStepWorker, run, config, num_envs, self._memory, rank)
            for rank in range(run.num_workers)
        ]
        self._workers = Crew(fleet, "worker", makers, restarts, config.stall_timeout_seconds)
        super().__init__([self._workers], run.total_steps, config.stall_timeout_seconds)
        self._steps = [0] * run.num_workers
        """Of each, as it said last."""
        self._statistics: list[dict[str, float]] = []

    @property
    def num_steps(self) -> int:
        """Of all workers."""
        return sum(self._steps)

    @property
    def num_updates(self) -> int:
        """Of all workers."""
        return self._memory.num_updates

    def exploration_rate(self) -> float:
        """The mean of the workers', each as far as it has come."""
        rates = [explorer(self._run, rank).exploration_rate(made) for rank, made in enumerate(self._steps)]
        return float(np.mean(rates))

    def _done(self) -> Done:
        steps = self.num_steps
        amounts = {"worker": (steps, "steps"), "driver": (self._num_chains, "chains")}
        return Done(steps, self.num_updates, amounts)

    def _start_idle(self) -> None:
        for rank in range(len(self._workers)):
            left = self._share(rank) - self._steps[rank]
            if rank not in self._chains and left > 0:
                self._chains.watch(rank, self._workers.call(rank, "work", left, _SPAN_SECONDS))

    def _share(self, rank: int) -> int:
        """Steps of one worker in the whole run."""
        total, workers = self._run.total_steps, len(self._workers)
        return total // workers + (rank < total % workers)

    def _finish(self, tag: int, future: Future) -> Turn:
        worked: Worked = self._acted(self._workers, tag, future)
        self._steps[tag] = worked.num_steps
        if worked.statistics:
            self._statistics.append(worked.statistics)
        return Turn(len(worked.returns), worked.returns, worked.lengths)

    def _take_in(self, lost: Sequence[Member]) -> None:
        """What was learned outlives the workers; new ones began at the steps of the lost ones."""
        self._steps = self._memory.steps.tolist()

    def parameters(self) -> Parameters:
        """What all share; buffers of a module are the first worker's."""
        buffers: dict[str, NDArray] = {}
        if self._run.initial.buffers:
            [buffers] = self._ask(self._workers, "buffers", [0])
        return Parameters(self.num_updates, self._memory.vectors[0].copy(), buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to all, the target network too."""
        self._workers.all("set_parameters", parameters, timeout_seconds=START_SECONDS)

    def measured(self) -> dict[str, float]:
        """The workers' means since the last call."""
        found, self._statistics = self._statistics, []
        names = set().union(*found)
        return {name: float(np.mean([one[name] for one in found])) for name in names}

    def save_state(self) -> dict[str, Any]:
        """Workers and memory."""
        return self._lasting(self._state)

    def _state(self) -> dict[str, Any]:
        self.come_to_rest()
        workers = self._workers.all("save_state", timeout_seconds=START_SECONDS)
        return {
            "workers": {str(rank): state for rank, state in enumerate(workers)},
            "memory": {name: array.copy() for name, array in self._memory._asdict().items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        for rank in range(len(self._workers)):
            saved = state["workers"][str(rank)]
            self._workers.one(rank, "load_state", saved, timeout_seconds=START_SECONDS)
        for name, array in self._memory._asdict().items():
            array[...] = state["memory"][name]
        self._steps = self._memory.steps.tolist()
        self._begun = True
