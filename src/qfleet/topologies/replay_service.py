"""A replay shard as a service, and what goes between it and those who learn from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.replay.recorder import Block
from qfleet.replay.replay import Batch
from qfleet.replay.sample import Drawn, Sample
from qfleet.replay.shard import ReplayShard, ShardReport, load_shard, save_shard

_SHARD_SEEDS = 1_000_000
"""Ranks from here on are shards: they draw other numbers than workers do."""


@dataclass(frozen=True)
class Learned:
    """What was made of a sample."""

    num_updates: int
    """Made from it."""
    version: int
    """Updates that the learner has made in all."""
    drawn: tuple[Drawn, ...] = ()
    td_errors: tuple[NDArray[np.float32], ...] = ()
    """(num_batches, part) for each of `drawn`; empty where nothing is drawn by priority."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Means over these updates, of learners that are not asked for them."""


def learn_sample(learner: Learner, sample: Sample, importance_exponent: float) -> Learned:
    """Makes an update from every minibatch of the sample."""
    errors = learner.learn_batches(writable(sample.stacked(importance_exponent)))
    return learned_from(learner, sample, list(errors))


def learned_from(learner: Learner, sample: Sample, td_errors: Sequence[NDArray[np.float32]]) -> Learned:
    """That an update was made from every minibatch, with these TD errors (batch,) each."""
    if not learner.config.priority_exponent:
        return Learned(len(td_errors), learner.num_updates)
    parts = tuple(np.ascontiguousarray(part) for part in sample.split(np.array(td_errors)))
    return Learned(len(td_errors), learner.num_updates, sample.drawn, parts)


def writable(batch: Batch) -> Batch:
    """What comes from another process is read-only: kernels would be compiled for it too, and PyTorch warns of it."""
    return Batch(*(part if part.flags.writeable else part.copy() for part in batch))


@final
class ReplayService:
    """One shard."""

    def __init__(
        self,
        run: NetworkRun,
        config: DQNConfig,
        num_writers: int,
        block_steps: int,
        number: int,
        incarnation: int,
    ) -> None:
        """`config` has the shard's own capacity."""
        seed = worker_seed(run.seed, _SHARD_SEEDS + number, incarnation)
        self._shard: ReplayShard = run.members.make_shard(
            config, num_writers, block_steps, seed, number, incarnation
        )
        self._number, self._num_drawn = number, 0

    def start(self) -> None:
        """Its memory is taken already."""

    def answer(self) -> None:
        """It is there."""

    def append(self, writer: int, block: Block) -> ShardReport:
        """Stores what an actor gathered."""
        return self._shard.append(writer, block)

    def restart_writer(self, writer: int, first_frame: int) -> None:
        """An actor whose next frame has this number, and refers to none before it, writes from now on."""
        self._shard.restart_writer(writer, first_frame)

    def sample(self, num_batches: int, batch_size: int) -> Sample | None:
        """Minibatches; None if none are asked for, or there is nothing yet."""
        if not num_batches or not len(self._shard):
            return None
        self._num_drawn += num_batches
        return self._shard.sample(num_batches, batch_size, self._num_drawn - num_batches)

    def prioritize(self, learned: Learned) -> None:
        """Gives what was drawn here the priorities of its TD errors; what is gone meanwhile is passed over."""
        for drawn, errors in zip(learned.drawn, learned.td_errors, strict=False):
            if drawn.shard == self._number:
                self._shard.update_priorities(drawn, errors)

    def save_state(self) -> dict[str, Any]:
        """All of it."""
        return {"shard": save_shard(self._shard), "drawn": self._num_drawn}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        load_shard(self._shard, state["shard"])
        self._num_drawn = state["drawn"]

    def close(self) -> None:
        """There is nothing to free."""
