"""Pooled: agents with environments and replay pools of their own; one network learns from minibatches of all pools.

    every agent k:  acts for a block with the parameters last sent back; stores it in its pool D_k; draws from D_k
    the learner:    puts what the pools gave together to minibatches, B / K transitions of each; makes the updates due
    every so many updates: the parameters go back to the agents

Pools stay where they are: only minibatches, and priorities on their way back, travel. The learner learns from what
was drawn in the turn before, while the agents act. Distributed DQN as in Ong, Chavez & Hong 2015 (arXiv 1508.04186).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.actor_service import ActorService, GatherReport
from qfleet.deep.learner import Learner
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.fleet import Fleet, Future
from qfleet.replay.replay import Batch
from qfleet.replay.sample import Drawn, Sample, concatenate
from qfleet.replay.shard import load_shard, save_shard
from qfleet.topologies.account import Done
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import writable
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.topology import Turn


@dataclass(frozen=True)
class PooledConfig:
    """How long the turns are, and how often parameters go back."""

    block_steps: int = 64
    """Steps of each agent in a turn, rounded up to whole steps of its environments."""
    publish_every_updates: int = 16
    """Updates between two times that the parameters go back to the agents."""
    stall_timeout_seconds: float = 60.0
    """An agent that is silent for longer is lost."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "block_steps", "publish_every_updates")
        refuse_no_patience(self)


@dataclass(frozen=True)
class PoolTurn:
    """What an agent's turn brought."""

    gathered: GatherReport
    sample: Sample | None
    """Its parts of minibatches for the learner; None if none were asked for, or the pool is empty."""


@final
class PooledAgent:
    """Environments, a pool, and the parameters last sent back."""

    def __init__(
        self, run: NetworkRun, config: PooledConfig, board: ParameterBoard, rank: int, incarnation: int
    ) -> None:
        seed, members = worker_seed(run.seed, rank, incarnation), run.members
        self._actor = ActorService(partial(members.make_actor, run.share, seed, config.block_steps))
        self._pool = members.make_shard(run.share, 1, config.block_steps, seed, rank, incarnation)
        self._board, self._parameters, self._num_drawn = board, run.initial, 0

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def answer(self) -> None:
        """It is there."""

    def prioritize(self, drawn: Drawn, td_errors: NDArray[np.float32]) -> None:
        """What was drawn here has these TD errors (num_batches, part)."""
        self._pool.update_priorities(drawn, td_errors)

    def turn(self, max_steps: int, num_batches: int, part: int) -> PoolTurn:
        """Acts for a block and stores it; then draws `part` transitions for each of `num_batches`."""
        self._parameters = self._board.newest(self._parameters.version) or self._parameters
        answer = self._actor.gather(self._parameters, max_steps)
        self._pool.append(0, answer.given)
        if not num_batches or not len(self._pool):
            return PoolTurn(answer.told, None)
        self._num_drawn += num_batches
        return PoolTurn(answer.told, self._pool.sample(num_batches, part, self._num_drawn - num_batches))

    def save_state(self) -> dict[str, Any]:
        """Environments and pool."""
        actor = self._actor.pause()
        self._pool.append(0, actor.given)
        return {"actor": actor.told, "pool": save_shard(self._pool), "drawn": self._num_drawn}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        load_shard(self._pool, state["pool"])
        self._actor.resume(state["actor"])
        self._num_drawn = state["drawn"]

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()


@final
class Pooled(ServicesTopology):
    """The driver has the learner; every agent is a service, with one call under way: its turn."""

    _driver = "learner"

    def __init__(
        self, fleet: Fleet, run: NetworkRun, learner: Learner, config: PooledConfig, restarts: Restarts
    ) -> None:
        self._run, self._learner, self._config = run, learner, config
        self._board = ParameterBoard(fleet, run.initial)
        makers = [partial(PooledAgent, run, config, self._board, rank) for rank in range(run.num_workers)]
        self._agents = Crew(fleet, "agent", makers, restarts, config.stall_timeout_seconds)
        super().__init__([self._agents], run.total_steps, config.stall_timeout_seconds)
        self._num_steps, self._published = 0, 0
        self._samples: dict[int, Sample] = {}
        """What agents have drawn in this turn."""
        self._drawn: Sample | None = None
        """What was drawn in the turn before, to learn from."""
        self._num_alive = 0
        """Transitions in all pools, as they said last."""

    @property
    def num_steps(self) -> int:
        """Of all agents."""
        return self._num_steps

    @property
    def num_updates(self) -> int:
        """The learner's."""
        return self._learner.num_updates

    def _done(self) -> Done:
        steps, updates = self.num_steps, self.num_updates
        return Done(steps, updates, {"agent": (steps, "steps"), "learner": (updates, "updates")})

    def _start_idle(self) -> None:
        """Agents act, store and draw; meanwhile the learner learns from what was drawn in the turn before."""
        if len(self._chains):
            return
        samples = [self._samples[rank] for rank in sorted(self._samples)]
        self._samples = {}
        self._drawn = concatenate(samples) if samples else None
        if self._num_steps < self._run.total_steps:
            self._start_turn()
        self._learn()

    def _start_turn(self) -> None:
        """Every agent is to act, and to draw its part of as many minibatches as will be due."""
        run, agents = self._run, len(self._agents)
        steps = min(self._config.block_steps, -(-(run.total_steps - self._num_steps) // agents))
        owed = self._drawn.num_batches if self._drawn is not None else 0
        due = run.config.updates_due(self._num_steps + steps * agents) - self._learner.num_updates - owed
        part = max(1, -(-run.config.batch_size // agents))
        for rank in range(agents):
            self._chains.watch(rank, self._agents.call(rank, "turn", steps, max(0, due), part))

    def _learn(self) -> None:
        """Updates from all minibatches drawn, and their priorities back to the pools."""
        if self._drawn is None:
            return
        sample, errors = self._drawn, []
        self._num_alive, self._drawn = sample.num_alive, None
        exponent = self._run.config.importance_exponent_at(self._num_steps / self._run.total_steps)
        left = writable(sample.stacked(exponent))
        while len(left.actions):
            until_publishing = self._published + self._config.publish_every_updates - self.num_updates
            errors.append(self._learner.learn_batches(Batch(*(part[:until_publishing] for part in left))))
            left = Batch(*(part[until_publishing:] for part in left))
            if self.num_updates - self._published >= self._config.publish_every_updates:
                self._publish()
        if self._run.config.priority_exponent:
            for drawn, part in zip(sample.drawn, sample.split(np.concatenate(errors)), strict=True):
                self._agents.call(drawn.shard, "prioritize", drawn, part)

    def _publish(self) -> None:
        self._published = self._learner.num_updates
        self._board.publish(self._learner.publish())

    def _finish(self, tag: int, future: Future) -> Turn:
        turn: PoolTurn = self._acted(self._agents, tag, future)
        report = turn.gathered
        self._num_steps += report.num_steps
        self._note_staleness("agent", report.staleness(self._learner.num_updates))
        if turn.sample is not None:
            self._samples[tag] = turn.sample
        lengths = tuple(float(length) for length in report.lengths)
        return Turn(len(lengths), tuple(report.returns), lengths)

    def _take_in(self, lost: Sequence[Member]) -> None:
        """A new agent begins with an empty pool, and acts with the parameters on the board."""

    def parameters(self) -> Parameters:
        """The learner's."""
        return self._learner.publish()

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to the learner, and to the agents."""
        self._learner.warm_start(parameters)
        self._publish()

    def measured(self) -> dict[str, float]:
        """The pools' sizes in all, and the learner's own."""
        values = {"replay/size": float(self._num_alive)} if self._num_alive else {}
        return values | self._learner.take_statistics()

    def save_state(self) -> dict[str, Any]:
        """Agents with their pools, and the learner; what is drawn and not learned from is drawn again."""
        return self._lasting(self._state)

    def _state(self) -> dict[str, Any]:
        self.come_to_rest()
        self._samples, self._drawn = {}, None
        states = self._agents.all("save_state", timeout_seconds=START_SECONDS)
        return {
            "steps": self._num_steps,
            "updates": self._learner.num_updates,
            "learner": self._learner.save_state(),
            "agents": {str(rank): state for rank, state in enumerate(states)},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self._num_steps, self._learner.num_updates = state["steps"], state["updates"]
        self._learner.load_state(state["learner"])
        self._publish()
        for rank in range(len(self._agents)):
            self._agents.one(rank, "load_state", state["agents"][str(rank)], timeout_seconds=START_SECONDS)
        self._begun = True
