"""A vector environment put back into a saved state goes on bit for bit."""

import numpy as np
import pytest

from qfleet.environments import EnvironmentConfig, make

SAVED = [
    ("CartPole-v1", "registered", ()),
    ("CartPole-v1", "in-process", ()),
    ("Acrobot-v1", "in-process", ("TimeLimit=30",)),
    ("MountainCar-v0", "in-process", ()),
    ("FrozenLake-v1", "in-process", ()),
    ("Taxi-v4", "in-process", ("TimeLimit=20",)),
    ("CliffWalking-v1", "in-process", ()),
    ("Blackjack-v1", "in-process", ()),
    ("ALE/Breakout-v5", "in-process", ("TimeLimit=90",)),
]


def _play(vector, actions):
    """Everything the steps gave, copied."""
    seen = []
    for chosen in actions:
        step = vector.step(chosen)
        fields = (step.observations, step.rewards, step.terminated, step.truncated, step.stepped)
        seen.append([array.copy() for array in fields])
    return seen


@pytest.mark.parametrize(("name", "engine", "wrappers"), SAVED)
@pytest.mark.parametrize("num_before", [0, 47])
def test_a_saved_state_continues_bit_equal(name, engine, wrappers, num_before):
    config = EnvironmentConfig(num_envs=2, engine=engine, wrappers=wrappers)
    vector, other = make(name, config), make(name, config)
    actions = np.random.default_rng(0).integers(vector.num_actions, size=(num_before + 300, 2))
    vector.reset(1)
    _play(vector, actions[:num_before])
    state = vector.save_state()
    assert state is not None and all(array.dtype.kind in "fiub" for array in state.values())
    after = _play(vector, actions[num_before:])
    other.load_state({key: array.copy() for key, array in state.items()})
    for expected, given in zip(after, _play(other, actions[num_before:]), strict=True):
        for a, b in zip(expected, given, strict=True):
            np.testing.assert_array_equal(a, b)
    ended = sum(step[2].sum() + step[3].sum() for step in after)
    assert ended > 0 or name == "CliffWalking-v1"
    vector.close()
    other.close()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("LunarLander-v3", {}),
        ("MinAtar/Breakout-v1", {}),
        ("CartPole-v1", {"engine": "processes", "num_processes": 1}),
        ("CartPole-v1", {"engine": "envpool"}),
        ("CartPole-v1", {"wrappers": ("DelayObservation=2",)}),
    ],
)
def test_elsewhere_there_is_no_state(name, changes):
    vector = make(name, EnvironmentConfig(num_envs=2, **changes))
    vector.reset(0)
    assert vector.save_state() is None
    vector.close()
