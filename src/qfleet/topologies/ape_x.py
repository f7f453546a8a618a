"""Ape-X: actors that only gather, a prioritized replay in shards, and learners that only learn (Horgan et al. 2018).

    every actor i, with its own epsilon_i = 0.4 ^ (1 + 7 i / (N - 1)):
        act for a block with the newest parameters on the board; n-step transitions get their first priorities here
        the block goes to the actor's shard
    the learner, or several that share every minibatch:
        minibatches of all shards, drawn ahead; one update each; their new priorities go back to the shards
        every so many updates: the parameters go on the board, once for all actors

A limiter keeps the ratio of updates to steps: whoever runs ahead waits (arXiv 1803.00933; the limiter is Reverb's).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np

from qfleet.deep.actor_service import GatherReport
from qfleet.deep.members import NetworkRun
from qfleet.deep.parameters import Parameters
from qfleet.fleet import Fleet, Future
from qfleet.replay.rate_limiter import RateLimiter
from qfleet.replay.shard import ShardReport
from qfleet.topologies.account import Done
from qfleet.topologies.ape_x_actor import ApeXActor, ladder
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.ape_x_learner import ApeXLearner
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import ReplayService
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.topology import Turn

_SLOTS = 2
"""Of everybody's work: a sample is learned from while the next is drawn, a block delivered while the next is acted."""
_SNAPSHOT_UPDATES = 1000


@dataclass
class _Block:
    """What an actor is asked for."""

    most_steps: int
    """Those asked for, and the rest of the last step of all its environments."""
    future: Future
    report: GatherReport | None = None
    """Once it is acted, and being stored."""


@final
class ApeX(ServicesTopology):
    """Two chains of calls for each actor, and two for the learners."""

    def __init__(
        self, fleet: Fleet, run: NetworkRun, config: ApeXConfig, num_envs: int, restarts: Restarts
    ) -> None:
        """`num_envs`: of each actor."""
        self._num_envs, self._run, self._config, timeout = num_envs, run, config, config.stall_timeout_seconds
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
        learners = range(config.num_learners)
        makers = [partial(ApeXLearner, run, config, self._board, number) for number in learners]
        self._learners = Crew(fleet, "learner", makers, restarts, timeout)
        makers = [partial(ApeXActor, run, config, self._board, number) for number in range(actors)]
        self._actors = Crew(fleet, "actor", makers, restarts, timeout)
        super().__init__([self._shards, self._learners, self._actors], run.total_steps, timeout)
        self._limiter = self._new_limiter()
        self._mean_epsilon = float(
            np.mean([ladder(run.config, actor, actors).exploration_final for actor in range(actors)])
        )
        self._blocks: dict[tuple[int, int], _Block] = {}
        """Those that every actor's slots bring, until they are stored."""
        self._next_steps = [config.block_steps] * actors
        """What every actor is asked for: no more than it can do in `block_seconds`, but for a factor of two."""
        self._num_stored = [0] * shards
        """Transitions of each shard, as it said last."""
        self._num_updates = 0
        self._snapshot: dict[str, Any] = {}
        """The first learner's, to which all go back when one is lost."""

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
        """The learners', which all make the same."""
        return self._num_updates

    def exploration_rate(self) -> float:
        """The mean of the ladder."""
        return self._mean_epsilon

    def prepare(self) -> None:
        """Lets all services begin, the learners with a snapshot."""
        super().prepare()
        if not self._snapshot:
            self._snapshot = self._learners.one(0, "save_state")

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
        is_old = self._num_updates >= self._snapshot["updates"] + _SNAPSHOT_UPDATES
        if is_old and ("snapshot", 0, 0) not in self._chains:
            self._chains.watch(("snapshot", 0, 0), self._learners.call(0, "save_state"))
        for slot, number in itertools.product(range(_SLOTS), range(len(self._actors))):
            starves = not self._num_stored[self._place(number)[0]]
            may_insert = starves or self._limiter.may_insert(self._next_steps[number])
            if (number, slot) not in self._blocks and self._left_steps() > 0 and may_insert:
                self._gather(number, slot)
        for slot in range(_SLOTS):
            if ("learner", 0, slot) not in self._chains and (batches := self._batches_due()):
                self._learn(slot, batches)

    def _left_steps(self) -> int:
        under_way = sum(block.most_steps for block in self._blocks.values())
        return self._run.total_steps - self.num_steps - under_way

    def _batches_due(self) -> int:
        """How many may be drawn at once; at the end of the run those that are still owed, and no more."""
        batches = self._config.batches_per_sample
        if not all(self._num_stored):
            return 0
        if self._left_steps() <= 0 and not self._blocks:
            return max(0, min(batches, int(self._limiter.balance())))
        return batches if self._limiter.may_sample(batches) else 0

    def _gather(self, number: int, slot: int) -> None:
        """A block; it is delivered once it is there: a shard does what it is asked in order, and would wait."""
        steps = max(1, min(self._next_steps[number], self._left_steps()))
        gathered = self._actors.call(number, "gather", steps)
        block = self._blocks[number, slot] = _Block(steps + self._num_envs - 1, gathered)
        self._chains.watch(("actor", number, slot), block.future)

    def _deliver(self, number: int, slot: int) -> None:
        """To the actor's shard."""
        shard, writer = self._place(number)
        stored = self._shards.call(shard, "append", writer, self._blocks[number, slot].future)
        self._chains.watch(("block", number, slot), stored)

    def _place(self, actor: int) -> tuple[int, int]:
        """The shard that an actor writes to, and its number as a writer there."""
        return actor % len(self._shards), actor // len(self._shards)

    def _learn(self, slot: int, batches: int) -> None:
        """Equal parts of minibatches from every shard, and updates."""
        part = -(-self._run.config.batch_size // len(self._shards))
        shards = range(len(self._shards))
        samples = [self._shards.call(shard, "sample", batches, part) for shard in shards]
        self._limiter.sample(batches)
        self._chains.watch(("learner", 0, slot), self._updates(batches, samples))

    def _prioritize(self, learned: Future) -> None:
        """What was drawn; once it is learned from, so that no sample waits for it in a shard's line."""
        if self._run.config.priority_exponent:
            for shard in range(len(self._shards)):
                self._shards.call(shard, "prioritize", learned)

    def _updates(self, batches: int, samples: Sequence[Future]) -> Future:
        """One learner makes them in one call; several give one another the gradients of their parts."""
        exponent = self._run.config.importance_exponent_at(self.num_steps / self._run.total_steps)
        if len(self._learners) == 1:
            return self._learners.call(0, "learn", exponent, *samples)
        gradients = self._call_learners("begin", exponent, *samples)
        for _ in range(batches - 1):
            gradients = self._call_learners("go_on", *gradients)
        return self._call_learners("finish", *gradients)[0]

    def _call_learners(self, method: str, *arguments: Any) -> list[Future]:
        return [self._learners.call(number, method, *arguments) for number in range(len(self._learners))]

    def _finish(self, tag: tuple[str, int, int], future: Future) -> Turn | None:
        role, number, slot = tag
        if role == "snapshot":
            self._snapshot = future.result(self._timeout_seconds)
            return None
        if role == "learner":
            self._num_updates = future.result(self._timeout_seconds).version
            self._prioritize(future)
            return None
        if role == "actor":
            report = self._blocks[number, slot].report = self._acted(self._actors, number, future)
            self._next_steps[number] = min(self._config.block_steps, 2 * report.num_steps)
            self._deliver(number, slot)
            return None
        report = self._blocks.pop((number, slot)).report
        assert report is not None
        stored: ShardReport = future.result(self._timeout_seconds)
        self._limiter.insert(report.num_steps)
        self._num_stored[self._place(number)[0]] = stored.num_alive
        self._note_staleness("actor", report.staleness(self._num_updates))
        lengths = tuple(float(length) for length in report.lengths)
        return Turn(len(lengths), tuple(report.returns), lengths)

    def _take_in(self, lost: Sequence[Member]) -> None:
        """If a learner was lost, all go back to the snapshot; what a lost shard held is gathered anew."""
        unstored = {number for number, _ in self._blocks}
        if any(crew is self._learners for crew, _ in lost):
            self._load_learners(self._snapshot)
        elif len(self._learners) > 1:
            # What the lost one was to give may have come to some of them and not to others.
            self._load_learners(self._learners.one(0, "save_state"))
        self._limiter.num_updates = self._num_updates
        shards = [number for crew, number in lost if crew is self._shards]
        actors = [number for crew, number in lost if crew is self._actors]
        for shard in shards:
            self._num_stored[shard] = 0
        for number in range(len(self._actors)):
            shard, writer = self._place(number)
            if number in actors or number in unstored or shard in shards:
                first = self._actors.one(number, "begin_anew")
                self._shards.one(shard, "restart_writer", writer, first)
        self._blocks.clear()

    def _load_learners(self, state: dict[str, Any]) -> None:
        self._learners.all("load_state", state)
        self._num_updates = state["updates"]

    def parameters(self) -> Parameters:
        """The learners'."""
        return self._ask(self._learners, "parameters", [0])[0]

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to the learners, and on the board."""
        self._learners.all("set_parameters", parameters, timeout_seconds=START_SECONDS)

    def measured(self) -> dict[str, float]:
        """The learners' means."""
        return self._ask(self._learners, "statistics", [0])[0]

    def save_state(self) -> dict[str, Any]:
        """All services."""
        return self._lasting(self._state)

    def _state(self) -> dict[str, Any]:
        self.come_to_rest()
        actors = {}
        for number in range(len(self._actors)):
            shard, writer = self._place(number)
            saved = self._actors.call(number, "save_state")
            actors[str(number)] = saved.result(self._timeout_seconds)
            stored: ShardReport = self._shards.one(shard, "append", writer, saved)
            self._num_stored[shard] = stored.num_alive
        shards = self._shards.all("save_state", timeout_seconds=START_SECONDS)
        return {
            "actors": actors,
            "shards": {str(number): state for number, state in enumerate(shards)},
            "learner": self._learners.one(0, "save_state"),
            "limiter": self._limiter.save_state(),
            "stored": list(self._num_stored),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        for crew, name in ((self._shards, "shards"), (self._actors, "actors")):
            for number in range(len(crew)):
                crew.one(number, "load_state", state[name][str(number)], timeout_seconds=START_SECONDS)
        self._num_stored = [int(number) for number in state["stored"]]
        self._snapshot = state["learner"]
        self._load_learners(self._snapshot)
        self._limiter.load_state(state["limiter"])
        self._begun = True
