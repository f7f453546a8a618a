"""DQN's settings: what they refuse, the exploration schedule, and how many updates are owed."""

import math

import pytest

from qfleet.deep.dqn import DQNConfig
from qfleet.errors import QfleetError


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": -1e-3},
        {"learning_rate": math.nan},
        {"discount": 1.01},
        {"batch_size": 0},
        {"updates_per_step": -1.0},
        {"updates_per_step": math.inf},
        {"learning_starts_steps": 0},
        {"target_update_every_updates": 0},
        {"target_update_rate": 1.5},
        {"n_step": 0},
        {"max_gradient_norm": -1.0},
        {"reward_limit": -1.0},
        {"exploration_initial": 1.1},
        {"exploration_final": -0.1},
        {"exploration_steps": -1},
        {"loss": "hubber"},
        {"network": "nn"},
        {"replay_capacity": 0},
        {"hidden_sizes": (0,)},
    ],
)
def test_wrong_settings_are_named_in_one_line(wrong: dict) -> None:
    with pytest.raises(QfleetError, match=next(iter(wrong))) as raised:
        DQNConfig(**wrong)
    assert "\n" not in str(raised.value)


def test_a_batch_must_fit_the_replay() -> None:
    with pytest.raises(QfleetError, match="batch_size is 64, replay_capacity 63"):
        DQNConfig(batch_size=64, replay_capacity=63)


def test_exploration_falls_linearly_and_stays() -> None:
    config = DQNConfig(exploration_initial=1.0, exploration_final=0.2, exploration_steps=1000)
    rates = [config.exploration_rate(steps) for steps in (0, 250, 500, 999, 1000, 10**9)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.2008, 0.2, 0.2])
    assert DQNConfig(exploration_steps=0, exploration_final=0.3).exploration_rate(0) == 0.3


def test_updates_owed_keep_the_ratio_exactly() -> None:
    config = DQNConfig(learning_starts_steps=100, updates_per_step=0.25)
    assert [config.updates_due(steps) for steps in (0, 100, 103, 104, 1100)] == [0, 0, 0, 1, 250]
    assert DQNConfig(learning_starts_steps=1, updates_per_step=3.0).updates_due(11) == 30


def test_a_rule_holds_what_is_off_as_infinity() -> None:
    rule = DQNConfig(loss="squared", max_gradient_norm=0.0).rule()
    assert rule.huber_limit == math.inf and rule.max_gradient_norm == math.inf
    assert DQNConfig().rule().huber_limit == 1
