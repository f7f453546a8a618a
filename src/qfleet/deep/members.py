"""What the members of a deep run are made of, wherever they live."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from qfleet.deep.actor import Actor
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.parameters import Parameters
from qfleet.replay.replay import Replay
from qfleet.replay.shard import ReplayShard


class Members(Protocol):
    """Makes actors, learners and replays of one run; picklable."""

    @property
    def may_be_on_gpu(self) -> bool:
        """Whether networks are on a GPU where there is one; the same on all machines."""
        ...

    def on_gpu(self, number: int) -> "Members":
        """The same, with networks on this one of the machine's GPUs, counted round, if they are on GPUs at all."""
        ...

    def make_actor(
        self, config: DQNConfig, seed: int, block_steps: int, *, makes_priorities: bool = False
    ) -> Actor:
        """Environments of its own, and a policy that explores them as `config` says."""
        ...

    def make_learner(self, config: DQNConfig, seed: int) -> Learner:
        """A network with values drawn from the seed, and its optimizer."""
        ...

    def make_replay(self, config: DQNConfig, block_steps: int) -> Replay:
        """Room for what one actor gathers."""
        ...

    def make_shard(
        self,
        config: DQNConfig,
        num_writers: int,
        block_steps: int,
        seed: int,
        shard: int = 0,
        incarnation: int = 0,
    ) -> ReplayShard:
        """Room for what several actors gather, drawn from as one."""
        ...


@dataclass(frozen=True)
class NetworkRun:
    """What a topology whose members are services is told of its run."""

    members: Members
    config: DQNConfig
    """Of the whole run."""
    seed: int
    total_steps: int
    num_workers: int
    initial: Parameters
    """The values that all begin with."""

    @property
    def share(self) -> DQNConfig:
        """The settings of one of its workers."""
        return share_of(self.config, self.num_workers)


def share_of(config: DQNConfig, num_workers: int) -> DQNConfig:
    """The settings of one of several workers that act and learn side by side: schedules and replays are divided."""
    return replace(
        config,
        exploration_steps=-(-config.exploration_steps // num_workers),
        learning_starts_steps=-(-config.learning_starts_steps // num_workers),
        replay_capacity=max(config.batch_size, -(-config.replay_capacity // num_workers)),
    )


def worker_seed(seed: int, rank: int, incarnation: int = 0) -> int:
    """Of what a worker draws; the first has the run's own, so that one alone does what serial does.

    Whoever takes a lost worker's place, its `incarnation` counted from 1, draws other numbers.
    """
    if rank == incarnation == 0:
        return seed
    return int(np.random.SeedSequence([seed, 0x776F726B, rank, incarnation]).generate_state(1)[0])
