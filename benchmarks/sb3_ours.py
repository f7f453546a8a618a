"""Qfleet on CartPole with rl-zoo's settings; prints seconds and updates as JSON.

Stable-Baselines3 moves its target network every 10 steps, all within a rollout of 256: once before each 128
updates. It makes whole rollouts, 196 of them, and learns after each of those that end beyond 1000 steps.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from qfleet.assembly import Problem
from qfleet.experiment import make_settings
from qfleet.runs.folder import RunFolder
from qfleet.training import Training

settings = make_settings(
    "CartPole-v1",
    None,
    {
        "seed": int(sys.argv[1]),
        "steps": 196 * 256,
        "until_return": float("inf"),
        "evaluate_every_steps": 10**9,
        "evaluation_episodes": 1,
        "checkpoint_every_steps": 10**9,
        "num_envs": 1,
        "block_steps": 256,
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "replay_capacity": 100_000,
        "learning_starts_steps": 3 * 256,
        "updates_per_step": 0.5,
        "target_update_every_updates": 128,
        "double": False,
        "n_step": 1,
        "exploration_steps": 8_000,
        "exploration_final": 0.04,
        "hidden_sizes": (256, 256),
        "rescale_observations": False,
    },
)
with tempfile.TemporaryDirectory() as folder:
    run = RunFolder(Path(folder))
    with Training(Problem(settings, "CartPole-v1"), run) as training:
        start = time.perf_counter()
        for _ in training:
            pass
        print(json.dumps({"seconds": time.perf_counter() - start, "updates": training.trainee.num_updates}))
