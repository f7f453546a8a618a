"""Train a network of your own."""

from torch import nn

import qfleet

network = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
run = qfleet.train("CartPole-v1", network=network, steps=20_000, seed=0)
print(run.summary["evaluation"])
