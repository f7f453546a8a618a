"""Agents with tables of their own and one replay of transitions: against Q*, on every backend."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qfleet.errors import QfleetError
from qfleet.tabular.transitions import Transitions
from qfleet.topologies.table_agent import TableAsynchronousConfig
from qfleet.topologies.transition_replay import TransitionReplay
from tests.backends import ray_cluster
from tests.topologies.services_of_tables import LAKE, ONCE, train

SMALL: dict[str, Any] = {"topology": "asynchronous", "workers": 2, "exploration": "uniform"}
FALLING: dict[str, Any] = {"learning_rate_schedule": "visits"}
SOFT: dict[str, Any] = {"target_update_rate": 0.01, "target_update_every_updates": 1, "learning_rate": 0.01}


def block(first: int, number: int) -> Transitions:
    numbers = np.arange(first, first + number)
    return Transitions(numbers, numbers % 4, numbers / 2.0, numbers + 1, numbers % 3 == 0)


def test_a_replay_keeps_the_newest_and_draws_all_alike() -> None:
    replay = TransitionReplay(100, 3, 0)
    assert replay.sample(4, 8) is None and len(replay) == 0
    for first in range(0, 240, 24):
        replay.append(first % 2, block(first, 24))
    assert replay.sample(0, 8) is None
    drawn = replay.sample(1000, 20)
    assert drawn is not None and len(replay) == 100
    counts = np.bincount(drawn.state, minlength=240)
    assert (
        not counts[:140].any() and (counts[140:] > 120).all() and (counts[140:] < 290).all()
    )  # 200 +- 6 sigma
    np.testing.assert_array_equal(drawn.reward, drawn.state / 2.0)
    np.testing.assert_array_equal(drawn.next_state, drawn.state + 1)
    np.testing.assert_array_equal(drawn.terminated, drawn.state % 3 == 0)
    replay.append(0, block(1000, 350))
    found = replay.sample(100, 20)
    assert found is not None and found.state.min() >= 1250 and found.state.max() == 1349


def test_a_replay_goes_on_from_its_state() -> None:
    one, other = TransitionReplay(50, 3, 0), TransitionReplay(50, 3, 0)
    one.append(0, block(0, 70))
    one.sample(2, 2)
    other.load_state(one.save_state())
    for replay in (one, other):
        replay.append(1, block(500, 10))
    found = [replay.sample(5, 4) for replay in (one, other)]
    assert found[0] is not None and found[1] is not None
    for first, second in zip(found[0], found[1], strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("backend", ["threads", "processes"])
@pytest.mark.parametrize("rates", [FALLING, SOFT], ids=["hard", "soft"])
def test_a_slippery_lake_comes_near_its_exact_values(
    backend: str, rates: dict[str, Any], tmp_path: Path
) -> None:
    own: dict[str, Any] = SMALL | rates | {"steps": 600_000, "seed": 1}
    run = train("FrozenLake-v1", tmp_path / "run", backend=backend, **LAKE | own)
    assert run.summary["max_error"] < 0.1 and run.summary["steps"] == 600_000
    assert run.summary["updates"] == 150_000 and 0 < run.summary["td_error"] < 0.5
    assert run.values.shape == (16, 4)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_grid_comes_to_its_exact_values_to_the_last_bit(workers: int, tmp_path: Path) -> None:
    own: dict[str, Any] = SMALL | {"learning_rate": 1.0, "steps": 90_000, "workers": workers}
    run = train("GridWorld-4", tmp_path / "run", **ONCE | own)
    assert run.summary["max_error"] < 1e-12


def test_a_garnet_comes_near_its_exact_values(tmp_path: Path) -> None:
    own: dict[str, Any] = SMALL | FALLING | {"steps": 600_000, "discount": 0.8, "table_type": "float32"}
    run = train("Garnet-20", tmp_path / "run", **ONCE | own)
    assert run.summary["max_error"] < 0.1 and run.values.dtype == np.float32


def test_on_ray(tmp_path: Path) -> None:
    own: dict[str, Any] = SMALL | FALLING | {"steps": 300_000, "backend": "ray"}
    run = train("FrozenLake-v1", tmp_path / "run", address=ray_cluster.address(), **LAKE | own)
    assert run.summary["max_error"] < 0.15


def test_the_values_are_those_of_the_agent_that_did_best(tmp_path: Path) -> None:
    """Rewards are few: with an epsilon of 0.05 whoever has learned the way returns most."""
    own: dict[str, Any] = {"topology": "asynchronous", "workers": 3, "steps": 120_000, "learning_rate": 0.2}
    run = train("FrozenLake-v1", tmp_path / "run", environment_options=("is_slippery=False",), **LAKE | own)
    assert run.summary["evaluation"]["mean_return"] == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"updates_per_step": 0.0}, "updates_per_step is 0.0"),
        ({"target_update_rate": 1.5}, "target_update_rate is 1.5"),
        (
            {"algorithm": "sarsa"},
            "asynchronous does not work with --algorithm sarsa in compiled worlds; serial",
        ),
        (
            {"stepping": "python", "backend": "processes"},
            "does not work with --algorithm q-learning in environments",
        ),
        ({"backend": "mpi"}, "work in rounds"),
        ({"until_change": 0.1}, "has none"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=said):
        train("FrozenLake-v1", tmp_path / "run", **LAKE | {"topology": "asynchronous"} | changes)


def test_updates_are_due_by_an_agents_own_steps() -> None:
    config = TableAsynchronousConfig(updates_per_step=0.3)
    assert [config.updates_due(steps) for steps in (0, 3, 4, 100)] == [0, 0, 1, 30]
