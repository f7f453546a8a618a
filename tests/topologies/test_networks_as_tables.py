"""Tables under topologies of networks: a linear network of one-hot states is a table, and comes to Q*.

Its parameters are the table's entries; each agent of asynchronous has one of its own and one for its targets.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import qfleet
from qfleet.worlds.gymnasium_tables import mdp_of_gymnasium

NUM_STATES, NUM_ACTIONS, DISCOUNT = 16, 4, 0.9
SETTINGS: dict[str, Any] = {
    "algorithm": "dqn",
    "workers": 2,
    "environment_options": ("is_slippery=False",),
    "discount": DISCOUNT,
    "loss": "squared",
    "double": False,
    "learning_rate": 0.01,
    "adam_epsilon": 1e-3,  # where errors are small, so are steps: not of the learning rate whatever the error is
    "batch_size": 256,  # a state seldom visited is in most batches
    "target_update_every_updates": 20,
    "exploration_final": 1.0,
    "exploration_steps": 0,
    "learning_starts_steps": 100,
    "until_return": float("inf"),
    "final_episodes": 2,
    "evaluation_episodes": 2,
    "evaluate_every_steps": 100_000,  # at the end alone: the values kept are the last ones
}


def exact_values() -> np.ndarray:
    return mdp_of_gymnasium("FrozenLake-v1", {"is_slippery": False}).fixed_point(DISCOUNT)


def table() -> nn.Linear:
    linear = nn.Linear(NUM_STATES, NUM_ACTIONS, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


SOFT: dict[str, Any] = {"target_update_rate": 0.1, "target_update_every_updates": 2}


@pytest.mark.parametrize(
    ("topology", "changes"),
    [
        ("parameter-server", {"steps": 16_000, "num_shards": 2}),
        ("asynchronous", {"steps": 20_000, "updates_per_step": 0.5}),
        pytest.param(
            "asynchronous", {"steps": 20_000, "updates_per_step": 0.5} | SOFT, marks=pytest.mark.soak
        ),
    ],
    ids=["parameter-server", "asynchronous", "asynchronous-soft"],
)
def test_every_entry_comes_to_the_exact_one(topology: str, changes: dict[str, Any], tmp_path: Path) -> None:
    run = qfleet.train(
        "FrozenLake-v1", network=table(), topology=topology, out=tmp_path / "run", **SETTINGS | changes
    )
    found, exact = np.array(run.values).reshape(NUM_ACTIONS, NUM_STATES).T, exact_values()
    learned = found.any(axis=1)
    assert learned.sum() == 11  # all but the holes and the goal, which are never acted in
    error = np.abs(found - exact)[learned].max()
    assert error < 0.01, error
    assert (found[learned].max(axis=1) > 0.5).all() and exact[learned].max() == pytest.approx(1.0)
