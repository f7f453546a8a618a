"""Stable-Baselines3 on CartPole with rl-zoo's settings; prints seconds and updates as JSON."""

import json
import sys
import time

import torch
from stable_baselines3 import DQN  # pyright: ignore[reportMissingImports]

torch.set_num_threads(2)
model = DQN(
    "MlpPolicy",
    "CartPole-v1",
    learning_rate=2.3e-3,
    batch_size=64,
    buffer_size=100_000,
    learning_starts=1000,
    gamma=0.99,
    target_update_interval=10,
    train_freq=256,
    gradient_steps=128,
    exploration_fraction=0.16,
    exploration_final_eps=0.04,
    policy_kwargs={"net_arch": [256, 256]},
    seed=int(sys.argv[1]),
    device="cpu",
)
start = time.perf_counter()
model.learn(50_000)
print(json.dumps({"seconds": time.perf_counter() - start, "updates": model._n_updates}))
