"""Ape-X's data path alone: frames of 84x84 bytes inserted while batches of 512 stacks of four are drawn.

Actors only hand on frames recorded beforehand, the learner only sends priorities back; shards, inserts and draws are
the real ones. What is to be reached are the rates of the paper's cluster (Horgan et al. 2018, arXiv 1803.00933,
section 4.1: 360 actors, one GPU): 12.5 thousand transitions a second in and 9.7 thousand out, at once.
"""

import time
from dataclasses import replace
from functools import partial

import numpy as np
from timing import verdict

from qfleet.backends.threads import ThreadFleet
from qfleet.environments.vector import ObservationLayout, Step
from qfleet.fleet import Fleet, Handle
from qfleet.replay.rate_limiter import RateLimiter
from qfleet.replay.recorder import Block, Recorder
from qfleet.replay.replay import ReplayConfig
from qfleet.replay.sample import Sample
from qfleet.replay.shard import ReplayShard

LAYOUT = ObservationLayout((84, 84), np.dtype(np.uint8), is_image=True, scale=1 / 255)
CAPACITY, NUM_SHARDS, WRITERS_PER_SHARD = 60_000, 2, 4
NUM_ENVS, BLOCK_VECTOR_STEPS, N_STEP, BATCH = 5, 20, 3, 512
BLOCK_STEPS = NUM_ENVS * BLOCK_VECTOR_STEPS
INSERTS_PER_SECOND, SAMPLES_PER_SECOND = 12_500, 9_700
WARM_SECONDS, SECONDS, TIMEOUT_SECONDS = 2.0, 8.0, 60.0


class RecordedActor:
    """Gives the same frames again and again, numbered and recorded as an actor would."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._steps = [_recorded_step(random, number) for number in range(BLOCK_VECTOR_STEPS)]
        self._recorder = Recorder(
            NUM_ENVS, LAYOUT, 0, n_step=N_STEP, discount=0.99, max_steps_per_block=BLOCK_VECTOR_STEPS
        )
        self._recorder.start(self._steps[0].observations, None)
        self._random = random

    def gather(self) -> Block:
        """A block of BLOCK_STEPS steps with priorities of its own."""
        actions = np.zeros(NUM_ENVS, np.int64)
        for step in self._steps:
            self._recorder.record(actions, step)
        block = self._recorder.take()
        return replace(block, priorities=self._random.exponential(size=len(block.transitions["frame"])))


def _recorded_step(random: np.random.Generator, number: int) -> Step:
    """One vector step; each environment's episode ends once a block, a few steps apart."""
    ended = np.arange(NUM_ENVS) * 4 == number
    frames = random.integers(0, 256, (NUM_ENVS, 84, 84), np.uint8)
    every, none = np.ones(NUM_ENVS, np.bool_), np.zeros(NUM_ENVS, np.bool_)
    return Step(frames, random.normal(size=NUM_ENVS), ended, none, frames, every, ended, None, None)


class ConsumingLearner:
    """Looks at every batch and sends priorities back, without learning."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def consume(self, sample: Sample) -> np.ndarray:
        """TD errors (1, BATCH) of the sample's only batch."""
        batch = sample.batches(0.4)[0]
        assert batch.observations.shape == (2 * BATCH, 4 * 84 * 84) and batch.weights.max() == 1
        return np.abs(self._random.normal(size=(1, BATCH))).astype(np.float32)


class DataPath:
    """The driver: keeps every service busy as far as the limiter lets it, and counts."""

    def __init__(self, fleet: Fleet) -> None:
        self._limiter = RateLimiter(
            SAMPLES_PER_SECOND / INSERTS_PER_SECOND,
            CAPACITY // 4,
            20 * BATCH,
            largest_insert_steps=BLOCK_STEPS,
            largest_sample_updates=BATCH,
        )
        config = ReplayConfig(replay_capacity=CAPACITY // NUM_SHARDS, priority_exponent=0.6)
        make_shards = [
            partial(
                ReplayShard,
                config,
                LAYOUT,
                num_writers=WRITERS_PER_SHARD,
                frame_stack=4,
                num_mask_actions=0,
                num_envs=NUM_ENVS,
                n_step=N_STEP,
                max_steps_per_block=BLOCK_VECTOR_STEPS,
                seed=shard,
                shard=shard,
            )
            for shard in range(NUM_SHARDS)
        ]
        self._shards: list[Handle] = [
            fleet.start(f"shard {number}", make) for number, make in enumerate(make_shards)
        ]
        self._actors = [
            fleet.start(f"actor {number}", partial(RecordedActor, number))
            for number in range(NUM_SHARDS * WRITERS_PER_SHARD)
        ]
        self._learner = fleet.start("the learner", ConsumingLearner)
        self._counter = 0

    def run(self, seconds: float) -> tuple[float, float]:
        """(transitions inserted a second, transitions drawn a second)."""
        before, start = (self._limiter.num_steps, self._limiter.num_updates), time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            self._turn()
        after = self._limiter.num_steps, self._limiter.num_updates
        return (after[0] - before[0]) / elapsed, (after[1] - before[1]) / elapsed

    def _turn(self) -> None:
        """One block of every actor, and a batch of every shard for as long as the limiter lets it."""
        gathering = [actor.call("gather") for actor in self._actors]
        while self._limiter.may_sample(NUM_SHARDS * BATCH):
            self._draw()
        storing = []
        for number, gathered in enumerate(gathering):
            writer, shard = divmod(number, NUM_SHARDS)
            block = gathered.result(TIMEOUT_SECONDS)
            storing.append(self._shards[shard].call("append", writer, block))
        for stored in storing:
            stored.result(TIMEOUT_SECONDS)
            self._limiter.insert(BLOCK_STEPS)

    def _draw(self) -> None:
        """One batch from each shard, consumed while the next is drawn."""
        drawing = [shard.call("sample", 1, BATCH, self._counter) for shard in self._shards]
        self._counter += 1
        for shard, drawn in zip(self._shards, drawing, strict=True):
            sample = drawn.result(TIMEOUT_SECONDS)
            errors = self._learner.call("consume", sample).result(TIMEOUT_SECONDS)
            shard.call("update_priorities", sample.drawn[0], errors)
            self._limiter.sample(BATCH)


def main() -> int:
    """Fills, warms up, measures."""
    fleet = ThreadFleet()
    try:
        path = DataPath(fleet)
        path.run(WARM_SECONDS)
        inserted, sampled = path.run(SECONDS)
    finally:
        fleet.close()
    reached = verdict(
        "inserted on threads", inserted / 1e3, "k transitions/s", at_least=INSERTS_PER_SECOND / 1e3
    )
    reached &= verdict(
        "drawn on threads, batches of 512",
        sampled / 1e3,
        "k transitions/s",
        at_least=SAMPLES_PER_SECOND / 1e3,
    )
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
