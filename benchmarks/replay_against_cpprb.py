"""Prioritized replay of a million transitions of 4 float32: sample, gather and update priorities, batch 256.

The peer is cpprb 11 (C++), in the same process, in turn with ours. Ours is called as the learner calls it: from one
compiled loop.
"""

from collections.abc import Callable

import numpy as np
from cpprb import PrioritizedReplayBuffer  # pyright: ignore[reportMissingImports]
from timing import best_seconds, verdict

from qfleet.environments.vector import ObservationLayout
from qfleet.kernels import kernel
from qfleet.replay.recorder import Block
from qfleet.replay.replay import Replay, ReplayConfig, draw, empty_batch, update_priorities

CAPACITY, BATCH = 1_000_000, 256
LAYOUT = ObservationLayout((4,), np.dtype(np.float32), is_image=False)


def our_round() -> Callable[[int], None]:
    config = ReplayConfig(replay_capacity=CAPACITY, priority_exponent=0.6)
    replay = Replay(
        config, LAYOUT, frame_stack=1, num_mask_actions=0, num_envs=1, n_step=1, max_steps_per_block=100_000
    )
    random, chunk = np.random.default_rng(0), 100_000
    for first in range(0, CAPACITY, chunk):
        frames = {
            "observation": random.normal(size=(chunk, 4)).astype(np.float32),
            "back": np.zeros(chunk, np.int32),
            "action_mask": np.zeros((chunk, 0), np.bool_),
        }
        rows = np.arange(first, first + chunk)
        transitions = {
            "frame": np.maximum(rows - 1, 0),
            "next_frame": rows,
            "action": np.zeros(chunk, np.int32),
            "reward": np.zeros(chunk, np.float32),
            "discount": np.full(chunk, 0.99, np.float32),
        }
        replay.append(Block(frames, transitions))
    view, batch = replay.view(), empty_batch(BATCH, LAYOUT, 1, 0)
    errors = random.normal(size=BATCH).astype(np.float32)
    rows = np.arange(replay.first, replay.first + len(replay))
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        update_priorities(view, part, random.normal(size=len(part)).astype(np.float32), 0.6, 1e-6)

    return lambda num: _turns(num, view, batch, errors)


@kernel
def _turns(num, view, batch, errors):
    for counter in range(num):
        draw(view, 0, counter, 0.4, batch)
        update_priorities(view, batch.rows, errors, 0.6, 1e-6)


def cpprb_round() -> Callable[[int], None]:
    fields = {"obs": {"shape": 4}, "next_obs": {"shape": 4}, "act": {}, "rew": {}, "done": {}}
    buffer = PrioritizedReplayBuffer(CAPACITY, fields, alpha=0.6)
    random, chunk = np.random.default_rng(0), 100_000
    for _ in range(CAPACITY // chunk):
        zeros = np.zeros(chunk)
        obs = random.normal(size=(chunk, 4)).astype(np.float32)
        priorities = np.abs(random.normal(size=chunk))
        buffer.add(obs=obs, next_obs=obs, act=zeros, rew=zeros, done=zeros, priorities=priorities)
    errors = np.abs(random.normal(size=BATCH))

    def turns(num: int) -> None:
        for _ in range(num):
            sample = buffer.sample(BATCH, beta=0.4)
            buffer.update_priorities(sample["indexes"], errors)

    return turns


if __name__ == "__main__":
    ours, theirs = our_round(), cpprb_round()
    pairs = [(best_seconds(ours, 500, 3), best_seconds(theirs, 200, 3)) for _ in range(5)]
    our_seconds, their_seconds = (
        np.median([pair[0] for pair in pairs]),
        np.median([pair[1] for pair in pairs]),
    )
    print(f"         ours {our_seconds * 1e6:.0f} us a batch, cpprb {their_seconds * 1e6:.0f} us")
    ratio = float(np.median([theirs / ours for ours, theirs in pairs]))
    reached = verdict("prioritized replay against cpprb", ratio, "x as fast", at_least=4)
    reached &= verdict("prioritized replay, a batch of 256", our_seconds * 1e3, "ms", at_most=0.1)
    raise SystemExit(0 if reached else 1)
