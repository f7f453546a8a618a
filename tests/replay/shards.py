"""Shards whose every transition says who wrote it."""

import numpy as np

from qfleet.environments.vector import ObservationLayout
from qfleet.replay.recorder import Block
from qfleet.replay.replay import ReplayConfig
from qfleet.replay.shard import ReplayShard

LAYOUT = ObservationLayout((4,), np.dtype(np.float32), is_image=False)


def make_shard(capacity: int, num_writers: int, exponent: float = 0.0, **options) -> ReplayShard:
    """One environment a writer, blocks of at most 7 steps (and so 8 transitions), no stack."""
    settings = {
        "frame_stack": 1,
        "num_mask_actions": 0,
        "num_envs": 1,
        "n_step": 1,
        "max_steps_per_block": 7,
        "seed": 5,
    }
    config = ReplayConfig(replay_capacity=capacity, priority_exponent=exponent)
    return ReplayShard(config, LAYOUT, num_writers=num_writers, **settings | options)


def block_of(first: int, values: list[float], priorities: list[float] | None = None) -> Block:
    """Frames number `first` on and a transition at each; reward and observation are the values."""
    num, column = len(values), np.array(values, np.float32)
    numbers = np.arange(first, first + num)
    frames = {
        "observation": np.repeat(column[:, None], 4, axis=1),
        "back": np.zeros(num, np.int32),
        "action_mask": np.zeros((num, 0), np.bool_),
    }
    transitions = {
        "frame": numbers,
        "next_frame": numbers,
        "action": column.astype(np.int32) % 7,
        "reward": column,
        "discount": np.full(num, 0.5, np.float32),
    }
    return Block(frames, transitions, first, None if priorities is None else np.array(priorities))
