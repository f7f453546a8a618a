"""Model parallel: one network, each of its layers shared out over the workers (Shoeybi et al. 2019, arXiv 1909.08053).

Worker 0 acts, keeps the replay and draws minibatches; all workers compute every pass through the network together, and
each moves its own parts. It is the unsplit network's learning, within rounding: what it buys is memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np

from qfleet.deep.actor import Actor, Gathered
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Policy
from qfleet.deep.networks import NetworkShape
from qfleet.deep.parameters import Parameters
from qfleet.deep.split import Split, cut_state, join_states
from qfleet.fleet import Fleet, Group
from qfleet.fleet_view import FleetView
from qfleet.replay.replay import Batch, Replay, empty_batch
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.looks import Looks
from qfleet.topologies.metered_workers import MeteredMaker
from qfleet.topologies.metering import NOTHING_READ, Reading, sums
from qfleet.topologies.role_totals import RoleTotals, Totals
from qfleet.topologies.timed_turns import timed_turns
from qfleet.topologies.topology import Topology, Turn
from qfleet.topologies.workers import START_SECONDS, Workers

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelParallelConfig:
    """How long a round is, and how long a silent worker is waited for."""

    block_steps: int = 64
    """Steps between two turns of learning, rounded up to whole steps of the vector environment."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "block_steps")
        refuse_no_patience(self)


@dataclass(frozen=True)
class ModelParallelTask:
    """What the workers learn; picklable, and so are its makers."""

    config: DQNConfig
    shape: NetworkShape
    num_mask_actions: int
    seed: int
    max_steps: int
    """Environment steps of the whole run."""
    make_module: "Callable[[], nn.Module]"
    """The unsplit network, in every worker; without memory where that is possible (`network_without_values`)."""
    make_actor: Callable[[Policy], Actor]
    """In worker 0."""
    make_replay: Callable[[], Replay]
    """In worker 0."""


@dataclass(frozen=True)
class ModelParallelReport:
    """What the workers did when told to advance."""

    num_steps: int
    """Environment steps since the run's beginning."""
    num_updates: int
    returns: list[float] = field(default_factory=list)
    """Of the episodes that ended."""
    lengths: list[int] = field(default_factory=list)
    """Their steps."""
    statistics: dict[str, float] = field(default_factory=dict)
    """The learner's means, and the replay's size."""
    reading: Reading = NOTHING_READ
    """Of the worker's meter; messages inside a pass through the network are work, waiting for worker 0 is none."""


@final
class ModelParallelWorker:
    """One worker's parts of the network; worker 0 is also the one that acts and remembers."""

    def __init__(self, task: ModelParallelTask, config: ModelParallelConfig, group: Group) -> None:
        self._task, self._config, self._group = task, config, group
        self.num_steps = 0

    def make(self) -> Split:
        """Makes the network, with all others; how it lies over the workers."""
        # PyTorch is imported only by the runs that need it.
        from qfleet.deep.tensor_parallel import CollectivePolicy, TensorParallelLearner
        from qfleet.deep.torch_group import TorchGroup

        task, leads = self._task, self._group.rank == 0
        self._torch_group = TorchGroup(self._group, self._config.stall_timeout_seconds)
        self._learner = TensorParallelLearner(
            task.config,
            task.shape,
            task.num_mask_actions,
            task.seed,
            make_module=task.make_module,
            torch_group=self._torch_group,
        )
        self._policy = CollectivePolicy(self._learner, self._group)
        self._actor = task.make_actor(self._policy) if leads else None
        self._replay = task.make_replay() if leads else None
        layout, stack = task.shape.layout, task.shape.frame_stack
        self._batch = empty_batch(task.config.batch_size, layout, stack, task.num_mask_actions)
        return self._learner.split

    def start(self) -> None:
        """Begins the first episodes."""
        if self._actor is not None:
            self._actor.start()

    def advance(self, until_steps: int) -> ModelParallelReport:
        """Rounds: act for a block, then make the updates that are due."""
        returns, lengths = [], []
        while self.num_steps < until_steps:
            gathered = self._act()
            if gathered is not None:
                returns += gathered.returns
                lengths += gathered.lengths
            for _ in range(self._updates_due()):
                self._update()
        statistics = self._learner.take_statistics()
        if self._replay is not None:
            statistics["replay/size"] = len(self._replay)
        return ModelParallelReport(self.num_steps, self._learner.num_updates, returns, lengths, statistics)

    def _act(self) -> Gathered | None:
        """Worker 0 acts and remembers; for every step of its environments all compute the network's values."""
        if self._actor is None or self._replay is None:
            self._policy.follow()
            return None
        version = Parameters(self._learner.num_updates, np.empty(0, np.float32))
        gathered = self._actor.gather(version, self._task.max_steps - self.num_steps)
        self._policy.end()
        self._replay.append(gathered.block)
        return gathered

    def _updates_due(self) -> int:
        """All count worker 0's steps."""
        own = np.zeros(2, np.int64)
        if self._actor is not None and self._replay is not None:
            own[:] = self._actor.num_steps, len(self._replay)
        self.num_steps, num_transitions = map(int, self._group.broadcast(own, 0))
        due = self._task.config.updates_due(self.num_steps) - self._learner.num_updates
        return due if num_transitions else 0

    def _update(self) -> None:
        """Worker 0 draws, all learn, worker 0 gives the transitions their new priorities."""
        batch, view = self._batch, None if self._replay is None else self._replay.view()
        if view is not None:
            progress = self.num_steps / self._task.max_steps
            batch = self._learner.draw(view, self._task.config.importance_exponent_at(progress))
        _broadcast(self._group, batch)
        td_errors = self._learner.learn_batch(batch)
        if view is not None:
            self._learner.prioritize(view, batch, td_errors)

    def parameters(self) -> Parameters:
        """This worker's parts."""
        return self._learner.publish()

    def warm_start(self, parameters: Parameters) -> None:
        """Begins from these parts."""
        self._learner.warm_start(parameters)

    def save_state(self) -> dict[str, Any]:
        """This worker's parts; worker 0's actor and replay."""
        state: dict[str, Any] = {"learner": self._learner.save_state(), "updates": self._learner.num_updates}
        if self._actor is not None and self._replay is not None:
            state["actor"], block = self._actor.pause()
            self._replay.append(block)
            state["replay"] = self._replay.save_state()
        return state

    def load_state(self, state: dict[str, Any], num_steps: int) -> None:
        """Goes on from there, instead of `start`."""
        self._learner.num_updates, self.num_steps = state["updates"], num_steps
        self._learner.load_state(state["learner"])
        if self._actor is not None and self._replay is not None:
            self._actor.resume(state["actor"])
            self._replay.load_state(state["replay"])

    def close(self) -> None:
        """Closes worker 0's environments, and leaves PyTorch's group."""
        if self._actor is not None:
            self._actor.close()
        self._torch_group.close()


def _broadcast(group: Group, batch: Batch) -> None:
    """Fills everybody's minibatch with worker 0's, in one message."""
    parts = [array.reshape(-1).view(np.uint8) for array in batch]
    received = group.broadcast(np.concatenate(parts) if group.rank == 0 else np.empty(0, np.uint8), 0)
    if group.rank:
        ends = np.cumsum([part.size for part in parts])
        for part, piece in zip(parts, np.split(received, ends[:-1]), strict=True):
            part[:] = piece


@final
class ModelParallel(Topology):
    """The driver's view: tells the workers how far to go, and joins and cuts what they hold.

    Values and states are those of the unsplit network, so that another number of workers, or one alone, can go on.
    """

    def __init__(
        self, fleet: Fleet, task: ModelParallelTask, config: ModelParallelConfig, num_workers: int
    ) -> None:
        """Starts the workers."""
        self._task, self._start_seconds = task, max(START_SECONDS, config.stall_timeout_seconds)
        makers = [MeteredMaker(partial(ModelParallelWorker, task, config))] * num_workers
        self._workers = Workers(fleet, makers, config.stall_timeout_seconds)
        self._known_split: Split | None = None
        self._report = ModelParallelReport(0, 0)
        self._readings = [NOTHING_READ] * num_workers
        self._looks = Looks(self._totals)
        self._begun = False

    @property
    def num_steps(self) -> int:
        """Worker 0's."""
        return self._report.num_steps

    @property
    def num_updates(self) -> int:
        """Made by all workers together."""
        return self._report.num_updates

    def prepare(self) -> None:
        """Lets the workers make the network and begin, if they have not."""
        self._split()
        if not self._begun:
            self._workers.all("start", timeout_seconds=self._start_seconds)
            self._begun = True

    def _split(self) -> Split:
        """Makes the network if there is none yet."""
        if self._known_split is None:
            self._known_split = self._workers.all("make", timeout_seconds=self._start_seconds)[0]
        assert self._known_split is not None, "every worker says how it lies"
        return self._known_split

    def advance(self, until_steps: int) -> ModelParallelReport:
        """All workers' rounds until `until_steps` steps, of those of the run, are made."""
        self.prepare()
        reports: list[ModelParallelReport] = self._workers.all(
            "advance", min(until_steps, self._task.max_steps)
        )
        self._report = reports[0]
        self._readings = sums(self._readings, [report.reading for report in reports])
        return reports[0]

    def turns(self) -> Iterator[Turn]:
        """As many rounds as make a turn."""
        self.prepare()
        for is_partial in timed_turns(self._task.max_steps, lambda: self.num_steps, self.advance):
            lengths = tuple(float(length) for length in self._report.lengths)
            yield Turn(len(lengths), tuple(self._report.returns), lengths, is_partial)

    def measured(self) -> dict[str, float]:
        """The learner's means, and the replay's size."""
        return self._report.statistics

    def view(self) -> FleetView:
        """Worker 0, who acts and learns, and the others."""
        return self._looks.view()

    def role_metrics(self) -> dict[str, float]:
        """The same."""
        return self._looks.metrics()

    def _totals(self) -> Totals:
        first, *others = self._readings
        roles = [RoleTotals("worker 0", self.num_steps, "steps", (first,))]
        if others:
            roles.append(RoleTotals("other worker", self.num_updates, "updates", tuple(others)))
        return Totals(first.seconds, 0, self.num_steps, self.num_updates, tuple(roles))

    def parameters(self) -> Parameters:
        """The unsplit network's."""
        split, parts = self._split(), self._workers.all("parameters")
        return Parameters(parts[0].version, split.join([part.vector for part in parts]), parts[0].buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from the parameters of an unsplit network."""
        split = self._split()
        parts = [split.cut(parameters.vector, rank) for rank in range(len(self._workers))]
        given = [(Parameters(parameters.version, part, parameters.buffers),) for part in parts]
        self._workers.each("warm_start", given)

    def save_state(self) -> dict[str, Any]:
        """Learner, actor and replay; the learner's as the unsplit `TorchLearner` saves its own."""
        states = self._workers.all("save_state")
        learner = join_states(self._split(), [state["learner"] for state in states])
        return states[0] | {"learner": learner, "num_steps": self.num_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from what any number of workers saved."""
        split = self._split()
        states = [_own_state(split, state, rank) for rank in range(len(self._workers))]
        self._workers.each("load_state", [(own, state["num_steps"]) for own in states], self._start_seconds)
        self._report, self._begun = ModelParallelReport(state["num_steps"], state["updates"]), True
        self._looks = Looks(self._totals)

    def close(self) -> None:
        """Lets the workers free what they hold."""
        self._workers.close()


def _own_state(split: Split, state: dict[str, Any], rank: int) -> dict[str, Any]:
    """What one worker gets of a state: only worker 0 acts and remembers."""
    own = {"learner": cut_state(split, state["learner"], rank), "updates": state["updates"]}
    return own if rank else own | {name: state[name] for name in ("actor", "replay")}
