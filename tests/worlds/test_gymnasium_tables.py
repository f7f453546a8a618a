"""MDPs of Gymnasium's environments, against the environments themselves."""

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers

from qfleet.errors import QfleetError
from qfleet.worlds.mdp import MDP


def reference_values(name: str, discount: float, **options) -> np.ndarray:
    """(S, A) optimal values by plain NumPy value iteration over the environment's table."""
    table = gymnasium.make(name, **options).unwrapped.P  # pyright: ignore[reportAttributeAccessIssue]
    moves, gains = np.zeros((len(table), len(table[0]), len(table))), np.zeros((len(table), len(table[0])))
    for state, actions in table.items():
        for action, outcomes in actions.items():
            for probability, following, reward, ended in outcomes:
                gains[state, action] += probability * reward
                moves[state, action, following] += probability * (not ended)
    q = np.zeros_like(gains)
    for _ in range(3000):
        q = gains + discount * moves @ q.max(axis=1)
    return q


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FrozenLake-v1", {}),
        ("FrozenLake-v1", {"is_slippery": False}),
        ("FrozenLake-v1", {"map_name": "8x8", "success_rate": 0.8}),
        ("FrozenLake8x8-v1", {}),
        ("CliffWalking-v1", {}),
        ("CliffWalking-v1", {"is_slippery": True}),
    ],
)
def test_the_solution_is_that_of_the_environments_table(name: str, options: dict):
    mdp = MDP.from_gymnasium(name, **options)
    q, expected = mdp.solve(0.95), reference_values(name, 0.95, **options)
    np.testing.assert_allclose(q, expected, atol=1e-11 * np.abs(expected).max())
    assert mdp.bellman_residual(q, 0.95) <= 1e-13 * np.abs(q).max()


def test_taxis_masked_actions_are_none_and_its_optimum_is_that_of_all_actions():
    mdp, expected = MDP.from_gymnasium("Taxi-v4"), reference_values("Taxi-v4", 0.95)
    bare = gymnasium.make("Taxi-v4").unwrapped
    masks = np.array([bare.action_mask(state) for state in range(500)], bool)  # pyright: ignore
    q = mdp.solve(0.95)
    assert mdp.allowed is not None
    np.testing.assert_array_equal(mdp.allowed, masks)
    assert (q[~masks] == -np.inf).all()
    inside = mdp.reachable()
    np.testing.assert_allclose(q[inside].max(axis=1), expected[inside].max(axis=1), atol=1e-12)
    np.testing.assert_allclose(q[masks & inside[:, None]], expected[masks & inside[:, None]], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "optimum", "num_reachable"),
    [("Taxi-v4", 7.93, 400), ("FrozenLake-v1", 0.7442, 11), ("FrozenLake8x8-v1", 0.9132, 53)],
)
def test_optimal_returns_under_the_time_limit(name: str, optimum: float, num_reachable: int):
    mdp = MDP.from_gymnasium(name)
    assert mdp.max_episode_steps is not None
    assert mdp.optimal_return(mdp.max_episode_steps) == pytest.approx(optimum, abs=1e-4)
    assert mdp.reachable().sum() == num_reachable


def test_cliff_walking_takes_thirteen_steps():
    mdp = MDP.from_gymnasium("CliffWalking-v1")
    assert mdp.optimal_return(1000) == -13
    assert mdp.max_episode_steps is None
    np.testing.assert_array_equal(np.flatnonzero(mdp.start_distribution()), [36])


def test_limits_thresholds_and_starts_are_kept():
    lake = MDP.from_gymnasium("FrozenLake8x8-v1")
    world = lake.world()
    assert (world.name, world.num_states, world.num_actions) == ("FrozenLake8x8-v1", 64, 4)
    assert (world.max_episode_steps, world.reward_threshold) == (200, 0.85)
    np.testing.assert_array_equal(np.flatnonzero(lake.start_distribution()), [0])
    taxi = MDP.from_gymnasium("Taxi-v4")
    bare = gymnasium.make("Taxi-v4").unwrapped
    np.testing.assert_allclose(taxi.start_distribution(), bare.initial_state_distrib)  # pyright: ignore


def test_an_environment_object_gives_the_same_as_its_id():
    made = gymnasium.make("FrozenLake-v1", is_slippery=False, max_episode_steps=7)
    mdp = MDP.from_gymnasium(made)
    assert mdp.max_episode_steps == 7
    by_id = MDP.from_gymnasium("FrozenLake-v1", is_slippery=False)
    np.testing.assert_array_equal(mdp.outcomes.records, by_id.outcomes.records)


def test_rainy_taxi_keeps_its_masks():
    mdp = MDP.from_gymnasium("Taxi-v4", is_rainy=True)
    assert mdp.outcomes.branching == 3
    q = mdp.solve(0.9)
    assert mdp.bellman_residual(q, 0.9) < 1e-13


class Masked(gymnasium.Env):
    """Two states; masks that are known of the present state only."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)
    P = {state: {action: [(1.0, action, 0.0, False)] for action in range(2)} for state in range(2)}  # noqa: RUF012
    initial_state_distrib = np.array([1.0, 0.0])

    def reset(self, *, seed=None, options=None):
        return 0, {"action_mask": np.array([1, 0], np.int8)}


class Startless(Masked):
    """Says nothing about where episodes begin."""

    initial_state_distrib = None

    def reset(self, *, seed=None, options=None):
        return 0, {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("Blackjack-v1", r"Blackjack-v1 has no complete table .* FrozenLake-v1, CliffWalking-v1 and Taxi-v4"),
        ("Taxi-v3", "Taxi-v3 is not a version that this Gymnasium has; Taxi-v4 works"),
        ("FrozenLaake-v1", "environment 'FrozenLaake-v1' is unknown; the nearest are FrozenLake-v1"),
        (Masked(), r"Masked masks actions, .* give it a method action_mask\(state\)"),
        (Startless(), r"Startless does not say where episodes begin \(env.unwrapped.initial_state_distrib\)"),
        (wrappers.TransformReward(Masked(), lambda reward: 2 * reward), "wrapped in TransformReward"),
    ],
)
def test_what_has_no_table_is_refused(environment, message: str):
    with pytest.raises(QfleetError, match=message):
        MDP.from_gymnasium(environment)


def test_options_that_the_table_knows_nothing_of_are_refused():
    with pytest.raises(QfleetError, match="Taxi-v4 has no complete table"):
        MDP.from_gymnasium("Taxi-v4", fickle_passenger=True)
    with pytest.raises(QfleetError, match="FrozenLake-v1 cannot be made with slippery=True"):
        MDP.from_gymnasium("FrozenLake-v1", slippery=True)
    with pytest.raises(QfleetError, match=r"options \(is_slippery\) work with ids only"):
        MDP.from_gymnasium(gymnasium.make("FrozenLake-v1"), is_slippery=False)
