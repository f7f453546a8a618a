"""Ape-X: actors that only gather, a prioritized replay in shards, and a learner that only learns (Horgan et al. 2018).

    every actor i, with its own epsilon_i = 0.4 ^ (1 + 7 i / (N - 1)):
        act for a block with the newest parameters on the board; n-step transitions get their first priorities here
        the block goes to the actor's shard
    the learner:
        minibatches of all shards, drawn ahead; one update each; their new priorities go back to the shards
        every so many updates: the parameters go on the board, once for all actors

A limiter keeps the ratio of updates to steps: whoever runs ahead waits (arXiv 1803.00933; the limiter is Reverb's).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np

from qfleet.deep.actor_service import ActorService, GatherReport
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet, Future
from qfleet.replay.rate_limiter import RateLimiter
from qfleet.replay.recorder import Block
from qfleet.replay.sample import Sample, concatenate
from qfleet.replay.shard import ShardReport
from qfleet.topologies.account import Done
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import Learned, ReplayService, learn_sample
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.topology import Turn

_EPSILON_BASE, _EPSILON_EXPONENT = 0.4, 7.0
_SLOTS = 2
"""Samples under way: one is learned from while the next is drawn."""
_SNAPSHOT_UPDATES = 1000


@dataclass(frozen=True)
class ApeXConfig:
    """How many shards there are, how much goes at once, and how often parameters go back."""

    num_shards: int = 1
    """Services that the replay is shared out over."""
    block_steps: int = 64
    """Steps of an actor between two deliveries, rounded up to whole steps of its environments."""
    batches_per_sample: int = 8
    """Minibatches that are drawn at once."""
    publish_every_updates: int = 16
    """Updates between two times that the parameters go on the board."""
    stall_timeout_seconds: float = 60.0
    """A member that is silent for longer is lost."""

    def __post_init__(self) -> None:
        for name in ("num_shards", "block_steps", "batches_per_sample", "publish_every_updates"):
            if getattr(self, name) < 1:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.stall_timeout_seconds > 0:
            raise QfleetError(f"stall_timeout_seconds is {self.stall_timeout_seconds}; it must be above 0")


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

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def answer(self) -> None:
        """It is there."""

    def gather(self, max_steps: int) -> GatherReport:
        """A block with the newest parameters; `take_block` gives it."""
        self._parameters = self._board.newest(self._parameters.version) or self._parameters
        return self._actor.gather(self._parameters, max_steps)

    def take_block(self) -> Block:
        """What was gathered last."""
        return self._actor.take_block()

    def begin_anew(self) -> int:
        """Breaks its episodes off, as what it wrote is lost; the number of the next frame."""
        return self._actor.begin_anew()

    def save_state(self) -> dict[str, Any]:
        """Its environments; `take_block` gives what belongs before them."""
        return self._actor.pause()

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._actor.resume(state)

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()


@final
class ApeXLearner:
    """The network and its optimizer."""

    def __init__(self, run: NetworkRun, config: ApeXConfig, board: ParameterBoard, incarnation: int) -> None:
        self._config, self._board, self._published = config, board, 0
        self._learner = run.members.make_learner(run.config, run.seed)
        self._learner.warm_start(run.initial)

    def start(self) -> None:
        """There is nothing to begin."""

    def answer(self) -> None:
        """It is there."""

    def learn(self, importance_exponent: float, *samples: Sample | None) -> Learned:
        """An update from every minibatch of all shards; publishes when that is due."""
        found = [sample for sample in samples if sample is not None]
        if not found:
            return Learned(0, self._learner.num_updates)
        learned = learn_sample(self._learner, concatenate(found), importance_exponent)
        if self._learner.num_updates - self._published >= self._config.publish_every_updates:
            self._publish()
        return learned

    def _publish(self) -> None:
        self._published = self._learner.num_updates
        self._board.publish(self._learner.publish())

    def parameters(self) -> Parameters:
        """The network's."""
        return self._learner.publish()

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these."""
        self._learner.warm_start(parameters)
        self._publish()

    def statistics(self) -> dict[str, float]:
        """Means since the last call."""
        return self._learner.take_statistics()

    def save_state(self) -> dict[str, Any]:
        """All of it."""
        return {"updates": self._learner.num_updates, "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse; the board shows it at once."""
        self._learner.num_updates = state["updates"]
        self._learner.load_state(state["learner"])
        self._publish()

    def close(self) -> None:
        """There is nothing to free."""


@final
class ApeX(ServicesTopology):
    """A chain of calls for each actor, and two for the learner."""

    def __init__(self, fleet: Fleet, run: NetworkRun, config: ApeXConfig, restarts: Restarts) -> None:
        self._run, self._config, timeout = run, config, config.stall_timeout_seconds
        actors, shards = run.num_workers, min(config.num_shards, run.num_workers)
        self._board = ParameterBoard(fleet, run.initial)
        own = replace(run.config, replay_capacity=max(1, run.config.replay_capacity // shards))
        self._shards = Crew(
            fleet,
            "replay shard",
            [
                partial(ReplayService, run, own, len(range(shard, actors, shards)), config.block_steps, shard)
                for shard in range(shards)
            ],
            restarts,
            timeout,
        )
        make_learner = partial(ApeXLearner, run, config, self._board)
        self._learner = Crew(fleet, "learner", [make_learner], restarts, timeout)
        makers = [partial(ApeXActor, run, config, self._board, number) for number in range(actors)]
        self._actors = Crew(fleet, "actor", makers, restarts, timeout)
        super().__init__([self._shards, self._learner, self._actors], run.total_steps, timeout)
        self._limiter = self._new_limiter()
        self._gathering: dict[int, Future] = {}
        self._num_stored = [0] * shards
        """Transitions of each shard, as it said last."""
        self._num_updates = 0
        self._snapshot: dict[str, Any] = {}
        """The learner's, to which another one goes back."""

    def _new_limiter(self) -> RateLimiter:
        config, dqn, actors = self._config, self._run.config, self._run.num_workers
        most_steps = 2 * config.block_steps * actors
        most_updates = _SLOTS * config.batches_per_sample
        buffer = most_steps * dqn.updates_per_step + most_updates
        return RateLimiter(
            dqn.updates_per_step,
            dqn.learning_starts_steps,
            buffer,
            largest_insert_steps=most_steps,
            largest_sample_updates=most_updates,
        )

    @property
    def num_steps(self) -> int:
        """Of all actors."""
        return self._limiter.num_steps

    @property
    def num_updates(self) -> int:
        """The learner's."""
        return self._num_updates

    def exploration_rate(self) -> float:
        """The mean of the ladder."""
        actors = self._run.num_workers
        rates = [ladder(self._run.config, actor, actors).exploration_final for actor in range(actors)]
        return float(np.mean(rates))

    def prepare(self) -> None:
        """Lets all services begin, the learner with a snapshot."""
        super().prepare()
        if not self._snapshot:
            self._snapshot = self._learner.one(0, "save_state")

    def _done(self) -> Done:
        steps, updates = self.num_steps, self.num_updates
        moved = steps + self._run.config.batch_size * updates
        return Done(
            steps,
            updates,
            {
                "actor": (steps, "steps"),
                "replay shard": (moved, "transitions"),
                "learner": (updates, "updates"),
                "driver": (self._num_chains, "chains"),
            },
        )

    def _start_idle(self) -> None:
        if self._num_updates >= self._snapshot["updates"] + _SNAPSHOT_UPDATES:
            self._snapshot = self._learner.one(0, "save_state")
        steps = self._config.block_steps
        for number in range(len(self._actors)):
            tag = "actor", number
            may_insert = self._limiter.may_insert(steps) or not self._num_stored[self._place(number)[0]]
            if tag not in self._chains and self._left_steps() > 0 and may_insert:
                self._gather(number)
        for slot in range(_SLOTS):
            if ("learner", slot) not in self._chains and (batches := self._batches_due()):
                self._learn(slot, batches)

    def _left_steps(self) -> int:
        return self._run.total_steps - self.num_steps - self._config.block_steps * len(self._gathering)

    def _batches_due(self) -> int:
        """How many may be drawn at once; at the end of the run those that are still owed, and no more."""
        batches = self._config.batches_per_sample
        if not all(self._num_stored):
            return 0
        if self._left_steps() <= 0 and not self._gathering:
            return max(0, min(batches, int(self._limiter.balance())))
        return batches if self._limiter.may_sample(batches) else 0

    def _gather(self, number: int) -> None:
        """Act, and deliver to the actor's shard."""
        shard, writer = self._place(number)
        steps = max(1, min(self._config.block_steps, self._left_steps()))
        self._gathering[number] = self._actors.call(number, "gather", steps)
        block = self._actors.call(number, "take_block")
        self._chains.watch(("actor", number), self._shards.call(shard, "append", writer, block))

    def _place(self, actor: int) -> tuple[int, int]:
        """The shard that an actor writes to, and its number as a writer there."""
        return actor % len(self._shards), actor // len(self._shards)

    def _learn(self, slot: int, batches: int) -> None:
        """Equal parts of minibatches from every shard; updates; priorities."""
        run = self._run
        part = -(-run.config.batch_size // len(self._shards))
        shards = range(len(self._shards))
        samples = [self._shards.call(shard, "sample", batches, part) for shard in shards]
        exponent = run.config.importance_exponent_at(self.num_steps / run.total_steps)
        learned = self._learner.call(0, "learn", exponent, *samples)
        if run.config.priority_exponent:
            for shard in shards:
                self._shards.call(shard, "prioritize", learned)
        self._limiter.sample(batches)
        self._chains.watch(("learner", slot), learned)

    def _finish(self, tag: tuple[str, int], future: Future) -> Turn | None:
        role, number = tag
        if role == "learner":
            self._num_updates = future.result(self._timeout_seconds).version
            return None
        report: GatherReport = self._acted(self._actors, number, self._gathering.pop(number))
        stored: ShardReport = future.result(self._timeout_seconds)
        self._limiter.insert(report.num_steps)
        self._num_stored[self._place(number)[0]] = stored.num_alive
        self._note_staleness("actor", report.staleness(self._num_updates))
        lengths = tuple(float(length) for length in report.lengths)
        return Turn(len(lengths), tuple(report.returns), lengths)

    def _take_in(self, lost: Sequence[Member]) -> None:
        """A new learner goes back to the snapshot; what a lost shard held is gathered anew."""
        self._gathering.clear()
        if any(crew is self._learner for crew, _ in lost):
            self._learner.one(0, "load_state", self._snapshot)
            self._num_updates = self._snapshot["updates"]
        self._limiter.num_updates = self._num_updates
        shards = [number for crew, number in lost if crew is self._shards]
        actors = [number for crew, number in lost if crew is self._actors]
        for shard in shards:
            self._num_stored[shard] = 0
        for number in range(len(self._actors)):
            shard, writer = self._place(number)
            if number in actors or shard in shards:
                first = self._actors.one(number, "begin_anew")
                self._shards.one(shard, "restart_writer", writer, first)

    def parameters(self) -> Parameters:
        """The learner's."""
        return self._lasting(partial(self._learner.one, 0, "parameters"))

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to the learner, and on the board."""
        self._learner.one(0, "set_parameters", parameters, timeout_seconds=START_SECONDS)

    def measured(self) -> dict[str, float]:
        """The learner's means."""
        return self._lasting(partial(self._learner.one, 0, "statistics"))

    def save_state(self) -> dict[str, Any]:
        """All services."""
        return self._lasting(self._state)

    def _state(self) -> dict[str, Any]:
        self._come_to_rest()
        actors = {}
        for number in range(len(self._actors)):
            shard, writer = self._place(number)
            actors[str(number)] = self._actors.one(number, "save_state")
            self._append_rest(shard, writer, number)
        shards = self._shards.all("save_state", timeout_seconds=START_SECONDS)
        return {
            "actors": actors,
            "shards": {str(number): state for number, state in enumerate(shards)},
            "learner": self._learner.one(0, "save_state"),
            "limiter": self._limiter.save_state(),
            "stored": list(self._num_stored),
        }

    def _append_rest(self, shard: int, writer: int, number: int) -> None:
        """What belongs before an actor's pause."""
        block = self._actors.call(number, "take_block")
        stored: ShardReport = self._shards.one(shard, "append", writer, block)
        self._num_stored[shard] = stored.num_alive

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        for crew, name in ((self._shards, "shards"), (self._actors, "actors")):
            for number in range(len(crew)):
                crew.one(number, "load_state", state[name][str(number)], timeout_seconds=START_SECONDS)
        self._num_stored = [int(number) for number in state["stored"]]
        self._snapshot = state["learner"]
        self._learner.one(0, "load_state", self._snapshot)
        self._num_updates = self._snapshot["updates"]
        self._limiter.load_state(state["limiter"])
        self._begun = True
