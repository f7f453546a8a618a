"""Parameter server: workers pull parameters and push gradients; the server, in shards, applies them as they come.

    every worker k, at its own pace:              every shard s of the server:
        pull the parameters of all shards             when a gradient comes:
        act, store in its own replay D_k                  drop it if it is too stale, or was here before
        gradient of a minibatch from D_k                  else one step of its rule on its slice
        push each shard its slice                         answer with the slice as it is now

Gorila (Nair et al. 2015, arXiv 1507.04296), after Dean et al. 2012 (Downpour). The target network is each worker's own,
and follows the parameters that it pulls. With a table there is neither: a worker walks in its copy, and what it pushes
is the block of updates that it has made there.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.gradient_sources import Contribution, GradientSource
from qfleet.deep.optimizer import global_norm
from qfleet.deep.parameters import Parameters, check_same_network
from qfleet.errors import FleetError, NonFiniteError
from qfleet.fleet import Fleet, Future
from qfleet.tabular.merging import bounds_of
from qfleet.topologies.account import Done
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.parameter_shard import ParameterShard, PushedGradient, ServerReport, Slice
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.step_rules import StepRule
from qfleet.topologies.topology import Turn


@dataclass(frozen=True)
class ServerConfig:
    """How the server is cut, and what it does with gradients that come late."""

    num_shards: int = 1
    """Services that the parameters are shared out over."""
    max_staleness: int = 100
    """Updates after which a gradient's parameters are too old: it is dropped, and counted."""
    stall_timeout_seconds: float = 60.0
    """A member that is silent for longer is lost."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "num_shards")
        refuse_below(self, 0, "max_staleness")
        refuse_no_patience(self)


@dataclass(frozen=True)
class ParameterServerConfig(ServerConfig):
    """The same, and how long a worker acts between two turns of learning."""

    block_steps: int = 64
    """Steps of a worker between two turns of learning, rounded up to whole steps of its environments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(self, 1, "block_steps")


def none_due(num_steps: int) -> int:
    """Where whoever acts computes a gradient at once, nothing is ever owed."""
    return 0


@dataclass(frozen=True)
class ServedRun:
    """What a parameter server is told of its run."""

    make_source: Callable[[int, int], GradientSource]
    """Makes the environments and network of the worker of a rank, and of how often it was replaced; picklable."""
    initial: Parameters
    """The server's, to begin with."""
    rules: tuple[StepRule, ...]
    """One for each part of them."""
    num_acting: int
    """So many of them, the first, are those that are acted with."""
    total_steps: int
    num_workers: int
    updates_due: Callable[[int], int] = none_due
    """Gradients owed after so many steps of a worker, where these are not computed as it acts."""
    snapshot_updates: int = 1000
    """Between two snapshots of the server, to which it goes back where a shard is lost."""


@dataclass(frozen=True)
class Computed:
    """What a worker did with the parameters it pulled."""

    server: ServerReport
    """As its first shard answered last."""
    contribution: Contribution
    """Without the gradient."""
    has_gradient: bool


@final
class ParameterServerWorker:
    """Pulls, has its source compute a gradient, and pushes."""

    def __init__(self, run: ServedRun, num_shards: int, rank: int, incarnation: int) -> None:
        self._who, self._rules = (rank, incarnation), run.rules
        self._source = run.make_source(rank, incarnation)
        self._bounds = bounds_of(len(run.initial.vector), num_shards)
        self._number = 0
        self._versions: tuple[int, ...] = ()
        self._gradient: NDArray[np.floating] | None = None
        self._norms: tuple[float, ...] = ()

    def start(self) -> None:
        """Begins the first episodes."""
        self._source.start()

    def answer(self) -> None:
        """It is there."""

    def compute(self, max_steps: int, progress: float, *pulled: Slice) -> Computed:
        """Takes the parameters; acts, or computes a gradient, which `gradient` gives, or both."""
        self._versions = tuple(part.report.version for part in pulled)
        self._source.take(self._versions[0], np.concatenate([part.values for part in pulled]))
        contribution = self._source.contribute(max_steps, progress)
        self._gradient = contribution.gradient
        if self._gradient is not None:
            self._number += 1
            parts = [self._gradient[..., rule.first : rule.last] for rule in self._rules]
            self._norms = tuple(global_norm(part.reshape(-1)) for part in parts)
            if not np.isfinite(self._norms).all():
                raise NonFiniteError(
                    "a worker's gradient is not finite; a smaller --learning-rate usually helps"
                )
        without = replace(contribution, gradient=None)
        return Computed(pulled[0].report, without, has_gradient=self._gradient is not None)

    def gradient(self, shard: int) -> PushedGradient | None:
        """The slice of the latest gradient that is a shard's; None if there is none."""
        if self._gradient is None:
            return None
        values = self._gradient[..., self._bounds[shard] : self._bounds[shard + 1]]
        return PushedGradient(self._who, self._number, self._versions[shard], values, self._norms)

    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """Goes on in the place of a worker that had made so many steps, and owed so many gradients for them."""
        self._source.take_over(parameters, num_steps, num_owed)

    def repeat(self, num_updates: int) -> None:
        """The server has lost so many updates of this worker's."""
        self._source.repeat(num_updates)

    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""
        return self._source.buffers()

    def save_state(self) -> dict[str, Any]:
        """The source's; gradients are numbered anew by whoever goes on."""
        return self._source.save_state()

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._source.load_state(state)

    def close(self) -> None:
        """Closes its environments."""
        self._source.close()


def _make_shard(
    run: ServedRun, config: ServerConfig, first: int, last: int, incarnation: int
) -> ParameterShard:
    return ParameterShard(run.initial.vector[first:last], first, run.rules, config.max_staleness)


@final
class ParameterServer(ServicesTopology):
    """Every worker has a chain of calls under way: compute, push to all shards, and so on from what these answer."""

    def __init__(self, fleet: Fleet, run: ServedRun, config: ServerConfig, restarts: Restarts) -> None:
        self._run, timeout = run, config.stall_timeout_seconds
        self._bounds = list(pairwise(bounds_of(len(run.initial.vector), config.num_shards)))
        shards = [partial(_make_shard, run, config, first, last) for first, last in self._bounds]
        workers = [
            partial(ParameterServerWorker, run, config.num_shards, rank) for rank in range(run.num_workers)
        ]
        self._servers = Crew(fleet, "parameter shard", shards, restarts, timeout)
        self._workers = Crew(fleet, "worker", workers, restarts, timeout)
        super().__init__([self._servers, self._workers], run.total_steps, timeout)
        self._pulled: list[list[Future]] = [[] for _ in workers]
        """What each worker is to compute with next."""
        self._gradients: list[list[Future]] = [[] for _ in workers]
        """What each computes now, for every shard."""
        self._steps, self._owed = [0] * run.num_workers, [0] * run.num_workers
        """Of each worker; gradients that are due, less those computed."""
        self._server = ServerReport(0, 0, 0)
        self._snapshot: list[dict[str, Any]] = []
        """States of all shards when they had applied the same gradients, to which all go back if one is lost."""
        self._num_computed, self._computed_at_snapshot = 0, 0
        """Gradients, since this driver began."""
        self._losses: list[float] = []

    @property
    def num_steps(self) -> int:
        """Of all workers."""
        return sum(self._steps)

    @property
    def num_updates(self) -> int:
        """Gradients that were applied."""
        return self._server.version

    def prepare(self) -> None:
        """Lets all services begin; the workers' first parameters are on their way."""
        super().prepare()
        if not self._snapshot:
            self._take_snapshot()
            self._pull_anew()

    def _pull_anew(self) -> None:
        for rank in range(len(self._workers)):
            self._pulled[rank] = [self._servers.call(shard, "pull") for shard in range(len(self._servers))]

    def _done(self) -> Done:
        steps, updates = self.num_steps, self.num_updates
        return Done(
            steps,
            updates,
            {
                "worker": (steps, "steps"),
                "parameter shard": (updates * len(self._servers), "updates"),
                "driver": (self._num_chains, "chains"),
            },
        )

    def _start_idle(self) -> None:
        is_old = self._server.version >= self._snapshot[0]["version"] + self._run.snapshot_updates
        if is_old and self._servers.is_replaceable:
            self._take_snapshot()
        for rank in range(len(self._workers)):
            if rank not in self._chains and (self._steps[rank] < self._share(rank) or self._owed[rank] > 0):
                self._start(rank)
        if not len(self._chains):
            self._take_snapshot()  # with the last gradients

    def _share(self, rank: int) -> int:
        """Steps of one worker in the whole run."""
        total, workers = self._run.total_steps, len(self._workers)
        return total // workers + (rank < total % workers)

    def _start(self, rank: int) -> None:
        """Compute with what was pulled."""
        worker, left = self._workers, self._share(rank) - self._steps[rank]
        progress = self.num_steps / self._run.total_steps
        self._chains.watch(rank, worker.call(rank, "compute", left, progress, *self._pulled[rank]))
        self._gradients[rank] = [worker.call(rank, "gradient", shard) for shard in range(len(self._servers))]

    def _push(self, rank: int) -> None:
        """What was computed, once it is there: a shard does what it is asked in order, and would wait for it.

        What the shards answer is pulled for the next time.
        """
        with suppress(FleetError):  # one that was ended is about to be replaced, and then all pull anew
            self._pulled[rank] = [
                self._servers.call(shard, "push", gradient)
                for shard, gradient in enumerate(self._gradients[rank])
            ]

    def _finish(self, tag: int, future: Future) -> Turn | None:
        computed: Computed = self._acted(self._workers, tag, future)
        self._push(tag)
        due, made = self._run.updates_due, computed.contribution
        self._owed[tag] += due(self._steps[tag] + made.num_steps) - due(self._steps[tag])
        self._steps[tag] += made.num_steps
        self._server = max(self._server, computed.server, key=lambda report: report.version)
        if computed.has_gradient:
            self._owed[tag] -= 1
            self._num_computed += 1
            self._note_staleness("worker", computed.server.staleness)
        elif not made.num_steps:
            self._owed[tag] = 0  # there is nothing to learn from
        if made.loss is not None:
            self._losses.append(made.loss)
        return Turn(made.num_episodes, made.returns, made.lengths) if made.num_steps else None

    # Faults

    def _take_snapshot(self) -> None:
        """All shards at rest, which have applied the same gradients."""
        self.come_to_rest()
        self._snapshot = self._servers.all("save_state")
        self._server = replace(self._server, version=self._snapshot[0]["version"])
        self._computed_at_snapshot = self._num_computed

    def _take_in(self, lost: Sequence[Member]) -> None:
        """If a shard was lost, all go back to the last snapshot; every worker pulls anew."""
        if any(crew is self._servers for crew, _ in lost):
            self._go_back()
        for crew, rank in lost:
            if crew is self._workers:
                self._let_take_over(rank)
        self._pull_anew()

    def _go_back(self) -> None:
        """The updates that this undoes are made again, by all workers alike."""
        for shard, state in enumerate(self._snapshot):
            self._servers.one(shard, "load_state", state)
        dropped = self._server.num_dropped - self._snapshot[0]["dropped"]
        undone = max(0, self._num_computed - self._computed_at_snapshot - dropped)
        self._computed_at_snapshot = self._num_computed
        self._server = replace(self._server, version=self._snapshot[0]["version"])
        for rank in range(len(self._workers)):
            part = undone // len(self._workers) + (rank < undone % len(self._workers))
            self._workers.one(rank, "repeat", part)
            self._owed[rank] += part

    def _let_take_over(self, rank: int) -> None:
        """The lost one's episodes, and its replay, are gone."""
        parameters = self._joined(self._servers.all("pull"))
        self._workers.one(rank, "take_over", parameters, self._steps[rank], self._owed[rank])

    # Values and states

    def parameters(self) -> Parameters:
        """The server's, as far as they are acted with; buffers of a module are the first worker's."""
        buffers = self._ask(self._workers, "buffers", [0])[0] if self._run.initial.buffers else {}
        found = self._joined(self._ask(self._servers, "pull", range(len(self._servers))))
        return Parameters(found.version, found.vector[: self._run.num_acting], buffers)

    def _joined(self, slices: Sequence[Slice]) -> Parameters:
        """With the buffers that a network begins with."""
        buffers = self._run.initial.buffers
        return Parameters(slices[0].report.version, np.concatenate([part.values for part in slices]), buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to the server; target networks follow with their next moves."""
        vector = self._joined(self._servers.all("pull")).vector
        check_same_network(self._run.num_acting, parameters)
        vector[: self._run.num_acting] = parameters.vector
        for shard, (first, last) in enumerate(self._bounds):
            self._servers.one(shard, "set_values", vector[first:last])

    def measured(self) -> dict[str, float]:
        """Losses since the last call; gradients that were dropped so far."""
        values = {"fleet/dropped_gradients": float(self._server.num_dropped)}
        if self._losses:
            values["train/loss"] = float(np.mean(self._losses))
        self._losses = []
        return values

    def save_state(self) -> dict[str, Any]:
        """Server and workers."""
        return self._lasting(self._state)

    def _state(self) -> dict[str, Any]:
        self._take_snapshot()
        workers = self._workers.all("save_state", timeout_seconds=START_SECONDS)
        return {
            "shards": {str(shard): state for shard, state in enumerate(self._snapshot)},
            "workers": {str(rank): state for rank, state in enumerate(workers)},
            "steps": list(self._steps),
            "owed": list(self._owed),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self._snapshot = [state["shards"][str(shard)] for shard in range(len(self._servers))]
        for shard, saved in enumerate(self._snapshot):
            self._servers.one(shard, "load_state", saved)
        for rank in range(len(self._workers)):
            saved = state["workers"][str(rank)]
            self._workers.one(rank, "load_state", saved, timeout_seconds=START_SECONDS)
        self._server = ServerReport(self._snapshot[0]["version"], self._snapshot[0]["dropped"], 0)
        self._steps, self._owed, self._begun = list(state["steps"]), list(state["owed"]), True
        self._pull_anew()
