"""Ape-X's data path alone: frames of 84x84 bytes inserted while batches of 512 stacks of four are drawn.

Actors only hand on frames recorded beforehand, the learner only sends priorities back and parameters of Atari's network
to the board, which actors read before each block; shards, inserts, draws and the ways between the services are the real
ones: blocks and batches go from service to service, never through the driver.
Run as `python benchmarks/ape_x_data_path.py threads`, `processes` or `ray`. What is to be reached are the rates of the
paper's cluster (Horgan et al. 2018, arXiv 1803.00933: 360 actors, one GPU): 12.5 thousand transitions a second in and
9.7 thousand out, at once, with parameters that are at most 400 updates old in 99 of 100 blocks.
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from timing import verdict

from qfleet.backends.processes import ProcessFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.members import NetworkRun
from qfleet.deep.parameters import Parameters
from qfleet.environments.vector import ObservationLayout, Step
from qfleet.fleet import Answer, Fleet, Future, Handle
from qfleet.replay.rate_limiter import RateLimiter
from qfleet.replay.recorder import Recorder
from qfleet.replay.sample import Sample
from qfleet.replay.shard import ReplayShard
from qfleet.topologies.crew import Completions
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import Learned, ReplayService

LAYOUT = ObservationLayout((84, 84), np.dtype(np.uint8), is_image=True, scale=1 / 255)
CAPACITY, NUM_ACTORS, NUM_SLOTS = 60_000, 2, 2
NUM_ENVS, BLOCK_VECTOR_STEPS, N_STEP, BATCH = 5, 20, 3, 512
BLOCK_STEPS = NUM_ENVS * BLOCK_VECTOR_STEPS
INSERTS_PER_SECOND, SAMPLES_PER_SECOND = 12_500, 9_700
NUM_PARAMETERS, PUBLISH_EVERY_UPDATES, MOST_STALE_UPDATES = 1_686_693, 16, 400
WARM_SECONDS, SECONDS, TIMEOUT_SECONDS = 4.0, 10.0, 60.0


class RecordedActor:
    """Gives the same frames again and again, numbered and recorded as an actor would."""

    def __init__(self, board: ParameterBoard, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._steps = [_recorded_step(random, number) for number in range(BLOCK_VECTOR_STEPS)]
        self._recorder = Recorder(
            NUM_ENVS, LAYOUT, 0, n_step=N_STEP, discount=0.99, max_steps_per_block=BLOCK_VECTOR_STEPS
        )
        self._recorder.start(self._steps[0].observations, None)
        self._random, self._board, self._version = random, board, 0

    def gather(self) -> Answer:
        """Tells the version of the newest parameters, and gives a block of BLOCK_STEPS steps with priorities."""
        newest = self._board.newest(self._version)
        self._version = self._version if newest is None else newest.version
        actions = np.zeros(NUM_ENVS, np.int64)
        for step in self._steps:
            self._recorder.record(actions, step)
        block = self._recorder.take()
        priorities = self._random.exponential(size=len(block.transitions["frame"]))
        return Answer(self._version, replace(block, priorities=priorities))


def _recorded_step(random: np.random.Generator, number: int) -> Step:
    """One vector step; each environment's episode ends once a block, a few steps apart."""
    ended = np.arange(NUM_ENVS) * 4 == number
    frames = random.integers(0, 256, (NUM_ENVS, 84, 84), np.uint8)
    every, none = np.ones(NUM_ENVS, np.bool_), np.zeros(NUM_ENVS, np.bool_)
    return Step(frames, random.normal(size=NUM_ENVS), ended, none, frames, every, ended, None, None)


class ConsumingLearner:
    """Looks at every batch and sends priorities back, without learning; publishes parameters all the same."""

    def __init__(self, board: ParameterBoard) -> None:
        self._random, self._num_updates = np.random.default_rng(0), 0
        self._board, self._parameters = board, np.zeros(NUM_PARAMETERS, np.float32)

    def consume(self, sample: Sample) -> Learned:
        """TD errors of the sample's only batch."""
        batch = sample.batches(0.4)[0]
        assert batch.observations.shape == (2 * BATCH, 4 * 84 * 84) and batch.weights.max() == 1
        self._num_updates += 1
        if self._num_updates % PUBLISH_EVERY_UPDATES == 0:
            self._board.publish(Parameters(self._num_updates, self._parameters))
        errors = np.abs(self._random.normal(size=(1, BATCH))).astype(np.float32)
        return Learned(1, self._num_updates, sample.drawn, (errors,))


@dataclass(frozen=True)
class RecordedMembers:
    """Of all that a run is made of the shard alone."""

    def make_shard(
        self,
        config: DQNConfig,
        num_writers: int,
        block_steps: int,
        seed: int,
        shard: int = 0,
        incarnation: int = 0,
    ) -> ReplayShard:
        """As a run of Atari makes it."""
        return ReplayShard(
            config,
            LAYOUT,
            num_writers=num_writers,
            frame_stack=4,
            num_mask_actions=0,
            num_envs=NUM_ENVS,
            n_step=N_STEP,
            max_steps_per_block=BLOCK_VECTOR_STEPS,
            seed=seed,
            shard=shard,
            incarnation=incarnation,
        )


class DataPath:
    """The driver: keeps every service busy as far as the limiter lets it, and counts."""

    def __init__(self, fleet: Fleet) -> None:
        config = DQNConfig(replay_capacity=CAPACITY, priority_exponent=0.6, batch_size=BATCH)
        members: Any = RecordedMembers()
        run = NetworkRun(members, config, 0, 10**9, NUM_ACTORS, Parameters(0, np.empty(0, np.float32)))
        shard = partial(ReplayService, run, config, NUM_ACTORS, BLOCK_STEPS, 0, 0)
        board = ParameterBoard(fleet, Parameters(0, np.empty(NUM_PARAMETERS, np.float32)))
        self._shard: Handle = fleet.start("the shard", shard)
        self._actors = [
            fleet.start(f"actor {number}", partial(RecordedActor, board, number))
            for number in range(NUM_ACTORS)
        ]
        self._learner = fleet.start("the learner", partial(ConsumingLearner, board))
        self._chains: Completions[tuple[str, int, int]] = Completions(TIMEOUT_SECONDS)
        self._limiter = RateLimiter(
            SAMPLES_PER_SECOND / INSERTS_PER_SECOND,
            CAPACITY // 4,
            20 * BATCH,
            largest_insert_steps=BLOCK_STEPS,
            largest_sample_updates=BATCH,
        )
        self._blocks: dict[tuple[int, int], Future] = {}
        """Of every actor's slots, until they are stored."""
        self._num_updates = 0
        self.stalenesses: list[int] = []
        """Of the blocks that were gathered."""

    def run(self, seconds: float) -> tuple[float, float]:
        """(transitions inserted a second, transitions drawn a second)."""
        before, start = (self._limiter.num_steps, self._limiter.num_updates), time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            self._start_idle()
            self._finish(*self._chains.next())
        after = self._limiter.num_steps, self._limiter.num_updates
        return (after[0] - before[0]) / elapsed, (after[1] - before[1]) / elapsed

    def _start_idle(self) -> None:
        for number, actor in enumerate(self._actors):
            for slot in range(NUM_SLOTS):
                if (number, slot) not in self._blocks and self._limiter.may_insert(BLOCK_STEPS):
                    self._blocks[number, slot] = actor.call("gather")
                    self._chains.watch(("actor", number, slot), self._blocks[number, slot])
        for slot in range(NUM_SLOTS):
            if ("learner", 0, slot) not in self._chains and self._limiter.may_sample(BATCH):
                learned = self._learner.call("consume", self._shard.call("sample", 1, BATCH))
                self._limiter.sample(BATCH)
                self._chains.watch(("learner", 0, slot), learned)

    def _finish(self, tag: tuple[str, int, int], future: Future) -> None:
        """As Ape-X does: whoever serves several is called once what it is given is there."""
        (role, number, slot), found = tag, future.result(TIMEOUT_SECONDS)
        if role == "learner":
            self._num_updates = found.version
            self._shard.call("prioritize", future)
        elif role == "actor":
            self.stalenesses.append(self._num_updates - found)
            stored = self._shard.call("append", number, self._blocks[number, slot])
            self._chains.watch(("block", number, slot), stored)
        else:
            del self._blocks[number, slot]
            self._limiter.insert(BLOCK_STEPS)


def make_fleet(backend: str) -> Fleet:
    """Where the services live."""
    if backend == "ray":
        from qfleet.backends.ray_fleet import RayFleet

        return RayFleet("", "", NUM_ACTORS)
    return ProcessFleet() if backend == "processes" else ThreadFleet()


def main(backend: str) -> int:
    """Fills, warms up, measures."""
    fleet = make_fleet(backend)
    try:
        path = DataPath(fleet)
        while not path.run(WARM_SECONDS)[1]:
            pass  # the shard fills to a quarter first
        path.stalenesses.clear()
        inserted, sampled = path.run(SECONDS)
    finally:
        fleet.close()
    reached = verdict(
        f"inserted on {backend}", inserted / 1e3, "k transitions/s", at_least=INSERTS_PER_SECOND / 1e3
    )
    reached &= verdict(
        f"drawn on {backend}, batches of 512",
        sampled / 1e3,
        "k transitions/s",
        at_least=SAMPLES_PER_SECOND / 1e3,
    )
    staleness = float(np.percentile(path.stalenesses, 99))
    reached &= verdict(
        f"staleness on {backend}, 99th percentile", staleness, "updates", at_most=MOST_STALE_UPDATES
    )
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "threads"))
