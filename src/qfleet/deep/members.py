"""What the members of a deep run are made of, wherever they live."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from qfleet.deep.actor import Actor
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.replay.replay import Replay


class Members(Protocol):
    """Makes actors, learners and replays of one run; picklable."""

    def make_actor(self, config: DQNConfig, seed: int, block_steps: int) -> Actor:
        """Environments of its own, and a policy that explores them as `config` says."""
        ...

    def make_learner(self, config: DQNConfig, seed: int) -> Learner:
        """A network with values drawn from the seed, and its optimizer."""
        ...

    def make_replay(self, config: DQNConfig, block_steps: int) -> Replay:
        """Room for what one actor gathers."""
        ...


def share_of(config: DQNConfig, num_workers: int) -> DQNConfig:
    """The settings of one of several workers that act and learn side by side: schedules and replays are divided."""
    return replace(
        config,
        exploration_steps=-(-config.exploration_steps // num_workers),
        learning_starts_steps=-(-config.learning_starts_steps // num_workers),
        replay_capacity=max(config.batch_size, -(-config.replay_capacity // num_workers)),
    )


def worker_seed(seed: int, rank: int) -> int:
    """Of what a worker draws; the first has the run's own, so that one alone does what serial does."""
    return int(np.random.SeedSequence([seed, 0x776F726B, rank]).generate_state(1)[0]) if rank else seed
