"""Ape-X's ladder of epsilons, by the paper's formula."""

from pathlib import Path

import pytest

import qfleet
from qfleet.deep.dqn import DQNConfig
from qfleet.topologies.ape_x_actor import ladder

CONFIG = DQNConfig(exploration_initial=1.0, exploration_final=0.05, exploration_steps=5000, batch_size=48)


@pytest.mark.parametrize(
    ("num_actors", "expected"),
    [
        (1, [0.4]),
        (2, [0.4, 0.4**8]),
        (3, [0.4, 0.4**4.5, 0.4**8]),
        (8, [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]),
    ],
)
def test_each_actor_keeps_its_own_rung(num_actors: int, expected: list[float]) -> None:
    """Horgan et al. 2018, section 4.1: epsilon_i = 0.4 ^ (1 + 7 i / (N - 1))."""
    configs = [ladder(CONFIG, actor, num_actors) for actor in range(num_actors)]
    for steps in (0, 2500, 10**7):
        assert [config.exploration_rate(steps) for config in configs] == pytest.approx(expected, rel=1e-9)


def test_the_run_shows_the_mean_rung(tmp_path: Path) -> None:
    shown: set[float] = set()
    qfleet.train(
        "CartPole-v1",
        topology="ape-x",
        workers=2,
        steps=600,
        learning_starts_steps=500,
        hidden_sizes=(8,),
        final_episodes=1,
        evaluation_episodes=1,
        out=tmp_path / "run",
        on_status=lambda status: shown.add(status.exploration_rate),
    )
    assert shown == {(0.4 + 0.4**8) / 2}


def test_all_else_is_the_runs() -> None:
    rung = ladder(CONFIG, 1, 4)
    assert (rung.batch_size, rung.learning_rate, rung.n_step) == (48, CONFIG.learning_rate, CONFIG.n_step)
