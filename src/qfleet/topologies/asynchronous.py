"""Asynchronous: agents with online and target networks of their own, and one replay that all write to and draw from.

    every agent, at its own pace:
        act for a block with its own network; the block goes to the shared replay
        draw as many minibatches from the shared replay as updates are due
        learn from them; its target network follows its own, softly or by copies

Agents share experience and nothing else. The run ends by choosing: its values are those of the agent whose latest
training episodes brought most. Asynchronous Q-learning with shared experience, after Mnih et al. 2016 and Nair et
al. 2015.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, final

import numpy as np

from qfleet.deep.actor_service import ActorService
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.fleet import Answer, Fleet, Future
from qfleet.replay.sample import Sample
from qfleet.topologies.account import Done
from qfleet.topologies.checks import refuse_below, refuse_no_patience
from qfleet.topologies.crew import START_SECONDS, Crew
from qfleet.topologies.lost_members import Member
from qfleet.topologies.replay_service import Learned, ReplayService, learn_sample
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.services import ServicesTopology
from qfleet.topologies.topology import Turn

_RECENT_EPISODES = 20


@dataclass(frozen=True)
class AsynchronousConfig:
    """How long an agent acts between two turns of learning, and how long a silent one is waited for."""

    block_steps: int = 64
    """Steps of an agent between two turns of learning, rounded up to whole steps of its environments."""
    stall_timeout_seconds: float = 60.0
    """A member that is silent for longer is lost."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "block_steps")
        refuse_no_patience(self)


class Acted(Protocol):
    """What an agent says of a block, but for the block itself."""

    @property
    def num_steps(self) -> int:
        """In the block."""
        ...

    @property
    def num_episodes(self) -> int:
        """That ended."""
        ...

    @property
    def returns(self) -> Sequence[float]:
        """Theirs, or their mean return, once."""
        ...

    @property
    def lengths(self) -> Sequence[float]:
        """Likewise."""
        ...


class Agent(Protocol):
    """Acts, and has values of its own and others for its targets; picklable is what makes it."""

    def start(self) -> None:
        """Begins the first episodes."""
        ...

    def answer(self) -> None:
        """It is there."""
        ...

    def act(self, max_steps: int) -> Answer:
        """A block by its own values: tells what it Acted, and gives the block, as the replay takes it."""
        ...

    def begin_anew(self) -> int:
        """What it wrote is lost; the number of the next frame."""
        ...

    def learn(self, sample: Any, importance_exponent: float) -> Learned:
        """Updates of its own values by what the replay has drawn; None: nothing."""
        ...

    def parameters(self) -> Parameters:
        """Its own values."""
        ...

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these."""
        ...

    def save_state(self) -> Answer:
        """Tells all of it, and gives a block that belongs before."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class SharedReplay(Protocol):
    """Stores what all agents have gathered."""

    def append(self, writer: int, block: Any) -> Any:
        """Of an agent."""
        ...

    def restart_writer(self, writer: int, first_frame: int) -> None:
        """An agent writes from now on that knows nothing of what it wrote before."""
        ...

    def sample(self, num_batches: int, batch_size: int) -> Any:
        """Minibatches; None if none are asked for, or there is nothing yet."""
        ...

    def prioritize(self, learned: Learned) -> None:
        """Takes new priorities; asked for where something is drawn by them."""
        ...


@dataclass(frozen=True)
class AgentsRun:
    """What asynchronous is told of its run."""

    make_agent: Callable[[int, int], Agent]
    """By rank, and by how often it was replaced."""
    make_replay: Callable[[int], SharedReplay]
    """By how often it was replaced."""
    initial: Parameters
    """All agents'."""
    block_steps: int
    batch_size: int
    updates_due: Callable[[int], int]
    """Of an agent, after so many steps of its own."""
    total_steps: int
    num_workers: int
    is_prioritized: bool = False
    importance_exponent_at: Callable[[float], float] = lambda progress: 1.0
    """Of the replay's weights, where `progress` of the run, 0 to 1, is made."""


def agents_of_networks(run: NetworkRun, config: AsynchronousConfig) -> AgentsRun:
    """Networks, with a replay of frames."""
    return AgentsRun(
        partial(AsynchronousAgent, run, config),
        partial(ReplayService, run, run.config, run.num_workers, config.block_steps, 0),
        run.initial,
        config.block_steps,
        run.config.batch_size,
        run.share.updates_due,
        run.total_steps,
        run.num_workers,
        bool(run.config.priority_exponent),
        run.config.importance_exponent_at,
    )


@final
class AsynchronousAgent(Agent):
    """Environments, an online and a target network."""

    def __init__(self, run: NetworkRun, config: AsynchronousConfig, rank: int, incarnation: int) -> None:
        seed = worker_seed(run.seed, rank, incarnation)
        self._actor = ActorService(partial(run.members.make_actor, run.share, seed, config.block_steps))
        self._learner = run.members.make_learner(run.share, seed)
        self._learner.warm_start(run.initial)

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def answer(self) -> None:
        """It is there."""

    def act(self, max_steps: int) -> Answer:
        """A block with its own network: see `ActorService.gather`."""
        return self._actor.gather(self._learner.publish(), max_steps)

    def begin_anew(self) -> int:
        """Breaks its episodes off, as what it wrote is lost; the number of the next frame."""
        return self._actor.begin_anew()

    def learn(self, sample: Sample | None, importance_exponent: float) -> Learned:
        """Updates of its own network."""
        if sample is None:
            return Learned(0, self._learner.num_updates)
        learned = learn_sample(self._learner, sample, importance_exponent)
        return replace(learned, statistics=self._learner.take_statistics())

    def parameters(self) -> Parameters:
        """Its online network's."""
        return self._learner.publish()

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these."""
        self._learner.warm_start(parameters)

    def save_state(self) -> Answer:
        """Tells of environments and networks, and gives the block that belongs before them."""
        actor = self._actor.pause()
        own = {"updates": self._learner.num_updates, "learner": self._learner.save_state()}
        return Answer(own | {"actor": actor.told}, actor.given)

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._actor.resume(state["actor"])
        self._learner.num_updates = state["updates"]
        self._learner.load_state(state["learner"])

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()


@final
class Asynchronous(ServicesTopology):
    """Every agent has a chain of calls of its own under way; none waits for another."""

    def __init__(
        self, fleet: Fleet, run: AgentsRun, restarts: Restarts, stall_timeout_seconds: float
    ) -> None:
        self._run, workers = run, run.num_workers
        self._replay = Crew(fleet, "replay", [run.make_replay], restarts, stall_timeout_seconds)
        makers = [partial(run.make_agent, rank) for rank in range(workers)]
        self._agents = Crew(fleet, "agent", makers, restarts, stall_timeout_seconds)
        super().__init__([self._replay, self._agents], run.total_steps, stall_timeout_seconds)
        self._blocks: dict[int, Future] = {}
        """What agents gather, or learn after."""
        self._reports: dict[int, Acted] = {}
        """Reports of those that learn."""
        self._statistics: list[dict[str, float]] = []
        self._steps, self._updates = [0] * workers, [0] * workers
        self._recent = [deque[float](maxlen=_RECENT_EPISODES) for _ in range(workers)]

    @property
    def num_steps(self) -> int:
        """Of all agents."""
        return sum(self._steps)

    @property
    def num_updates(self) -> int:
        """Of all agents."""
        return sum(self._updates)

    def _done(self) -> Done:
        steps, updates = self.num_steps, self.num_updates
        moved = steps + self._run.batch_size * updates
        return Done(
            steps,
            updates,
            {
                "agent": (steps, "steps"),
                "replay": (moved, "transitions"),
                "driver": (self._num_chains, "chains"),
            },
        )

    def _start_idle(self) -> None:
        for rank in range(len(self._agents)):
            if rank not in self._blocks and self._steps[rank] < self._share(rank):
                self._act(rank)

    def _share(self, rank: int) -> int:
        """Steps of one agent in the whole run."""
        total, workers = self._run.total_steps, len(self._agents)
        return total // workers + (rank < total % workers)

    def _act(self, rank: int) -> None:
        """A block; it is stored once it is there: the replay does what it is asked in order, and would wait."""
        steps = min(self._run.block_steps, self._share(rank) - self._steps[rank])
        self._blocks[rank] = self._agents.call(rank, "act", steps)
        self._chains.watch(("act", rank), self._blocks[rank])

    def _learn(self, rank: int, num_steps: int) -> None:
        """Store, draw, and make the updates that are due with so many steps more."""
        run, replay = self._run, self._replay
        due = run.updates_due(self._steps[rank] + num_steps) - self._updates[rank]
        exponent = run.importance_exponent_at(self.num_steps / run.total_steps)
        replay.call(0, "append", rank, self._blocks[rank])
        sample = replay.call(0, "sample", max(0, due), run.batch_size)
        self._chains.watch(("learn", rank), self._agents.call(rank, "learn", sample, exponent))

    def _finish(self, tag: tuple[str, int], future: Future) -> Turn | None:
        stage, rank = tag
        if stage == "act":
            self._reports[rank] = self._acted(self._agents, rank, future)
            self._learn(rank, self._reports[rank].num_steps)
            return None
        report, learned = self._reports.pop(rank), future.result(self._timeout_seconds)
        del self._blocks[rank]
        self._steps[rank] += report.num_steps
        self._updates[rank] += learned.num_updates
        self._statistics += [learned.statistics] if learned.statistics else []
        self._recent[rank].extend(report.returns)
        if self._run.is_prioritized:
            self._replay.call(0, "prioritize", future)
        lengths = tuple(float(length) for length in report.lengths)
        return Turn(report.num_episodes, tuple(report.returns), lengths)

    def _take_in(self, lost: Sequence[Member]) -> None:
        """A new agent begins with the best of the others' parameters; what a lost replay held is gathered anew."""
        newcomers = [number for crew, number in lost if crew is self._agents]
        for rank in newcomers:
            self._agents.one(rank, "set_parameters", self._parameters_for(newcomers))
        has_new_replay = any(crew is self._replay for crew, _ in lost)
        unstored = set(self._blocks)
        for rank in range(len(self._agents)) if has_new_replay else sorted(unstored.union(newcomers)):
            first = self._agents.one(rank, "begin_anew")
            self._replay.one(0, "restart_writer", rank, first)
        self._blocks.clear()
        self._reports.clear()

    def _parameters_for(self, newcomers: Sequence[int]) -> Parameters:
        others = [rank for rank in range(len(self._agents)) if rank not in newcomers]
        if not others:
            return self._run.initial
        return self._agents.one(self._best(others), "parameters")

    def _best(self, ranks: Sequence[int]) -> int:
        """Whose latest episodes brought most."""
        return max(ranks, key=lambda rank: np.mean(self._recent[rank]) if self._recent[rank] else -np.inf)

    def parameters(self) -> Parameters:
        """Those of the agent whose latest episodes brought most."""
        best = self._best(range(len(self._agents)))
        found: Parameters = self._ask(self._agents, "parameters", [best])[0]
        return Parameters(self.num_updates, found.vector, found.buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Gives them to all agents."""
        self._agents.all("set_parameters", parameters, timeout_seconds=START_SECONDS)

    def measured(self) -> dict[str, float]:
        """The agents' means since the last call."""
        found, self._statistics = self._statistics, []
        names = set().union(*found)
        return {name: float(np.mean([one[name] for one in found if name in one])) for name in names}

    def save_state(self) -> dict[str, Any]:
        """Agents and replay."""
        return self._lasting(self._state)

    def _state(self) -> dict[str, Any]:
        self.come_to_rest()
        agents = {}
        for rank in range(len(self._agents)):
            saved = self._agents.call(rank, "save_state")
            agents[str(rank)] = saved.result(self._timeout_seconds)
            self._replay.one(0, "append", rank, saved)
        return {
            "agents": agents,
            "replay": self._replay.one(0, "save_state", timeout_seconds=START_SECONDS),
            "steps": list(self._steps),
            "updates": list(self._updates),
            "recent": [list(returns) for returns in self._recent],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self._replay.one(0, "load_state", state["replay"], timeout_seconds=START_SECONDS)
        for rank in range(len(self._agents)):
            self._agents.one(rank, "load_state", state["agents"][str(rank)], timeout_seconds=START_SECONDS)
            self._recent[rank].extend(state["recent"][rank])
        self._steps, self._updates = list(state["steps"]), list(state["updates"])
        self._begun = True
