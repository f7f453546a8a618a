"""Parameter server: workers pull parameters and push gradients; the server, in shards, applies them as they come.

    every worker k, at its own pace:              every shard s of the server:
        pull the parameters of all shards             when a gradient comes:
        act, store in its own replay D_k                  drop it if it is too stale, or was here before
        gradient of a minibatch from D_k                  else one step of Adam on its slice
        push each shard its slice                         answer with the slice as it is now

Gorila (Nair et al. 2015, arXiv 1507.04296), after Dean et al. 2012 (Downpour). The target network is each worker's own,
and follows the parameters that it pulls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.learner import Gradient
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.optimizer import global_norm
from qfleet.deep.parameters import Parameters
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Future
from qfleet.tabular.merging import bounds_of
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.parameter_shard import ParameterShard, PushedGradient, ServerReport, Slice
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.topology import Turn

_SNAPSHOT_UPDATES = 1000


@dataclass(frozen=True)
class ParameterServerConfig:
    """How the server is cut, and what it does with gradients that come late."""

    num_shards: int = 1
    """Services that the parameters are shared out over."""
    max_staleness: int = 100
    """Updates after which a gradient's parameters are too old: it is dropped, and counted."""
    block_steps: int = 64
    """Steps of a worker between two turns of learning, rounded up to whole steps of its environments."""
    stall_timeout_seconds: float = 60.0
    """A member that is silent for longer is lost."""

    def __post_init__(self) -> None:
        for name, least in (("num_shards", 1), ("max_staleness", 0), ("block_steps", 1)):
            if getattr(self, name) < least:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.stall_timeout_seconds > 0:
            raise QfleetError(f"stall_timeout_seconds is {self.stall_timeout_seconds}; it must be above 0")


@dataclass(frozen=True)
class Computed:
    """What a worker did with the parameters it pulled."""

    server: ServerReport
    """As its first shard answered last."""
    num_steps: int = 0
    returns: tuple[float, ...] = ()
    """Of the episodes that ended."""
    lengths: tuple[float, ...] = ()
    loss: float | None = None
    """Of the minibatch, if a gradient was computed."""


@final
class ParameterServerWorker:
    """Environments, a replay and a network whose parameters are the server's."""

    def __init__(self, run: NetworkRun, config: ParameterServerConfig, rank: int, incarnation: int) -> None:
        seed, members, share = worker_seed(run.seed, rank, incarnation), run.members, run.share
        self._who, self._config, self._share = (rank, incarnation), config, share
        self._actor = members.make_actor(share, seed, config.block_steps)
        self._replay = members.make_replay(share, config.block_steps)
        self._learner = members.make_learner(share, seed)
        self._learner.warm_start(run.initial)
        self._bounds = bounds_of(len(run.initial.vector), config.num_shards)
        self._steps, self._number, self._num_extra = 0, 0, 0
        """The last: gradients that are due beyond those for its steps, less than none in a lost worker's place."""
        self._target_moves = 0
        self._versions: tuple[int, ...] = ()
        self._gradient: Gradient | None = None

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def answer(self) -> None:
        """It is there."""

    def compute(self, max_steps: int, importance_exponent: float, *pulled: Slice) -> Computed:
        """Takes the parameters; acts if no update is due; else the gradient of a minibatch, which `gradient` gives."""
        self._take(pulled)
        self._gradient, server = None, pulled[0].report
        due = self._share.updates_due(self._steps) + self._num_extra
        if due <= self._number or not len(self._replay):
            return self._act(max_steps, server)
        self._learner.num_updates = self._number  # which minibatch is drawn follows from it
        batch = self._learner.draw(self._replay.view(), importance_exponent)
        self._gradient = self._learner.gradient(batch)
        self._learner.prioritize(self._replay.view(), batch, self._gradient.td_errors)
        self._number += 1
        return Computed(server, loss=self._gradient.loss)

    def _act(self, max_steps: int, server: ServerReport) -> Computed:
        gathered = self._actor.gather(self._learner.publish(), min(max_steps, self._config.block_steps))
        self._replay.append(gathered.block)
        self._steps += gathered.num_steps
        lengths = tuple(float(length) for length in gathered.lengths)
        return Computed(server, gathered.num_steps, tuple(gathered.returns), lengths)

    def _take(self, pulled: Sequence[Slice]) -> None:
        """The parameters; the target network moves once for every so many updates of the server."""
        vector = np.concatenate([part.values for part in pulled])
        own = self._learner.publish()
        self._learner.set_parameters(Parameters(pulled[0].report.version, vector, own.buffers))
        self._versions = tuple(part.report.version for part in pulled)
        moves = pulled[0].report.version // self._share.target_update_every_updates
        if moves != self._target_moves:
            self._target_moves = moves
            self._learner.move_target()

    def gradient(self, shard: int) -> PushedGradient | None:
        """The slice of the latest gradient that is a shard's; None if there is none."""
        if self._gradient is None:
            return None
        values = self._gradient.vector[self._bounds[shard] : self._bounds[shard + 1]]
        norm = float(global_norm(self._gradient.vector))
        return PushedGradient(self._who, self._number, self._versions[shard], values, norm)

    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """Goes on in the place of a worker that had made so many steps, and owed so many gradients for them."""
        self._learner.warm_start(parameters)
        self._target_moves = parameters.version // self._share.target_update_every_updates
        self._steps, self._num_extra = num_steps, num_owed - self._share.updates_due(num_steps)

    def repeat(self, num_updates: int) -> None:
        """So many more gradients are due, as the server has lost some."""
        self._num_extra += num_updates

    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""
        return self._learner.publish().buffers

    def save_state(self) -> dict[str, Any]:
        """Environments, replay and target network."""
        actor, block = self._actor.pause()
        self._replay.append(block)
        counts = {
            "steps": self._steps,
            "number": self._number,
            "extra": self._num_extra,
            "target_moves": self._target_moves,
        }
        return counts | {
            "actor": actor,
            "replay": self._replay.save_state(),
            "learner": self._learner.save_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._steps, self._number, self._num_extra = state["steps"], state["number"], state["extra"]
        self._target_moves = state["target_moves"]
        self._actor.resume(state["actor"])
        self._replay.load_state(state["replay"])
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()


def _make_shard(
    run: NetworkRun, config: ParameterServerConfig, first: int, last: int, incarnation: int
) -> ParameterShard:
    return ParameterShard(run.initial.vector[first:last], run.config.rule(), config.max_staleness)


@final
class ParameterServer(ServicesTopology):
    """Every worker has a chain of calls under way: compute, push to all shards, and so on from what these answer."""

    def __init__(
        self, fleet: Fleet, run: NetworkRun, config: ParameterServerConfig, restarts: Restarts
    ) -> None:
        self._run, self._config, timeout = run, config, config.stall_timeout_seconds
        self._bounds = list(pairwise(bounds_of(len(run.initial.vector), config.num_shards)))
        shards = [partial(_make_shard, run, config, first, last) for first, last in self._bounds]
        workers = [partial(ParameterServerWorker, run, config, rank) for rank in range(run.num_workers)]
        self._servers = Crew(fleet, "parameter shard", shards, restarts, timeout)
        self._workers = Crew(fleet, "worker", workers, restarts, timeout)
        super().__init__([self._servers, self._workers], run.total_steps, timeout)
        self._pulled: list[list[Future]] = [[] for _ in workers]
        """What each worker is to compute with next."""
        self._steps, self._owed = [0] * run.num_workers, [0] * run.num_workers
        """Of each worker; gradients that are due, less those computed."""
        self._server = ServerReport(0, 0, 0)
        self._snapshot: list[dict[str, Any]] = []
        """States of all shards when they had applied the same gradients, to which all go back if one is lost."""
        self._num_computed, self._computed_at_snapshot = 0, 0
        """Gradients, since this driver began."""
        self._losses: list[float] = []
        self._stalenesses: list[int] = []

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

    def _start_idle(self) -> None:
        if self._server.version >= self._snapshot[0]["version"] + _SNAPSHOT_UPDATES:
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
        """Compute with what was pulled; push; what the shards answer is pulled for the next time."""
        run, worker = self._run, self._workers
        exponent = run.config.importance_exponent_at(self.num_steps / run.total_steps)
        left = self._share(rank) - self._steps[rank]
        computed = worker.call(rank, "compute", left, exponent, *self._pulled[rank])
        self._pulled[rank] = [
            self._servers.call(shard, "push", worker.call(rank, "gradient", shard))
            for shard in range(len(self._servers))
        ]
        self._chains.watch(rank, computed)

    def _finish(self, tag: int, future: Future) -> Turn | None:
        computed: Computed = self._acted(self._workers, tag, future)
        due = self._run.share.updates_due
        self._owed[tag] += due(self._steps[tag] + computed.num_steps) - due(self._steps[tag])
        self._steps[tag] += computed.num_steps
        self._server = max(self._server, computed.server, key=lambda report: report.version)
        if computed.loss is not None:
            self._owed[tag] -= 1
            self._num_computed += 1
            self._losses.append(computed.loss)
            self._stalenesses.append(computed.server.staleness)
        elif not computed.num_steps:
            self._owed[tag] = 0  # there is nothing to learn from
        if not computed.num_steps:
            return None
        return Turn(len(computed.returns), computed.returns, computed.lengths)

    # Faults

    def _take_snapshot(self) -> None:
        """All shards at rest, which have applied the same gradients."""
        self._come_to_rest()
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
        """A new worker has an empty replay, and learns once there is something in it."""
        parameters = self._pulled_parameters()
        self._workers.one(rank, "take_over", parameters, self._steps[rank], self._owed[rank])

    # Values and states

    def parameters(self) -> Parameters:
        """The server's; buffers of a module are the first worker's."""
        return self._lasting(self._found_parameters)

    def _found_parameters(self) -> Parameters:
        buffers = self._workers.one(0, "buffers") if self._run.initial.buffers else {}
        return replace(self._pulled_parameters(), buffers=buffers)

    def _pulled_parameters(self) -> Parameters:
        """With the buffers that a network begins with."""
        slices: list[Slice] = self._servers.all("pull")
        buffers = self._run.initial.buffers
        return Parameters(slices[0].report.version, np.concatenate([part.values for part in slices]), buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to the server; target networks follow with their next moves."""
        for shard, (first, last) in enumerate(self._bounds):
            self._servers.one(shard, "set_values", parameters.vector[first:last])

    def measured(self) -> dict[str, float]:
        """Losses and staleness since the last call; gradients that were dropped so far."""
        values = {"fleet/dropped_gradients": float(self._server.num_dropped)}
        if self._losses:
            values["train/loss"] = float(np.mean(self._losses))
            values["fleet/staleness"] = float(np.mean(self._stalenesses))
        self._losses, self._stalenesses = [], []
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
