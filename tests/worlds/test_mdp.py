"""MDPs in arrays: the forms they are given in, how they are stored, and what is refused."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import qfleet
from qfleet.errors import QfleetError
from qfleet.worlds.mdp import MDP
from qfleet.worlds.outcomes import MAX_BRANCHING


def random_dense(seed: int, num_states: int, num_actions: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Transitions and rewards (S, A, S) with 1 to `most` outcomes a pair."""
    generator = np.random.default_rng(seed)
    weights = generator.random((num_states, num_actions, num_states))
    order = weights.argsort(axis=2).argsort(axis=2)
    kept = weights * (order < generator.integers(1, most + 1, (num_states, num_actions, 1)))
    return kept / kept.sum(axis=2, keepdims=True), generator.normal(size=weights.shape)


def two_states(**changes) -> MDP:
    """Two states, two actions; action 1 leads to the other state with probability 0.5."""
    arrays = {
        "transitions": np.array([[[1, 0], [0.5, 0.5]], [[0, 1], [0.5, 0.5]]]),
        "rewards": np.array([[0.0, 1.0], [2.0, 3.0]]),
    }
    return MDP.from_arrays(**{**arrays, **changes}, name="two")


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    num_states=st.integers(1, 15),
    num_actions=st.integers(1, 3),
    most=st.integers(1, 12),
)
def test_dense_and_sparse_arrays_make_the_same_mdp(seed, num_states, num_actions, most):
    transitions, rewards = random_dense(seed, num_states, num_actions, min(most, num_states))
    flat = transitions.reshape(-1, num_states)
    dense = MDP.from_arrays(transitions, rewards)
    sparse = MDP.from_arrays(
        scipy.sparse.csr_matrix(flat), scipy.sparse.coo_array(rewards.reshape(flat.shape) * (flat > 0))
    )
    np.testing.assert_array_equal(dense.outcomes.records, sparse.outcomes.records)
    np.testing.assert_array_equal(dense.outcomes.offsets, sparse.outcomes.offsets)
    expected = (transitions * rewards).sum(axis=2)
    np.testing.assert_allclose(dense.solve(0), expected, atol=1e-14)


def test_next_states_and_certain_probabilities_make_the_same_mdp():
    generator = np.random.default_rng(0)
    nexts, rewards = generator.integers(0, 50, (50, 4)), generator.normal(size=(50, 4))
    by_state = MDP.from_arrays(nexts, rewards, terminal=[3, 7], start=0)
    by_probability = MDP.from_arrays(np.eye(50)[nexts], rewards, terminal=[3, 7], start=0)
    np.testing.assert_array_equal(by_state.outcomes.records, by_probability.outcomes.records)
    assert by_state.outcomes.branching == by_probability.outcomes.branching == 1
    np.testing.assert_array_equal(by_state.solve(0.9), by_probability.solve(0.9))


def test_deterministic_mdps_take_8_bytes_a_pair_and_12_where_rewards_need_them():
    nexts = np.zeros((1000, 4), np.uint16)
    assert MDP.from_arrays(nexts, np.full((1000, 4), 0.5)).num_bytes == 8 * 4000
    assert MDP.from_arrays(nexts, np.full((1000, 4), 1e-40)).num_bytes == 12 * 4000
    assert MDP.from_arrays(nexts, np.full((1000, 4), 1e300)).num_bytes == 12 * 4000
    exact = np.full((1000, 4), 0.1)
    assert MDP.from_arrays(nexts, exact).solve(0)[0, 0] == 0.1


def test_few_outcomes_need_no_offsets_and_many_get_them():
    few, _ = random_dense(0, 20, 2, 1)
    few = 0.5 * few + 0.5 * np.roll(few, 1, axis=2)
    assert MDP.from_arrays(few, np.zeros((20, 2))).outcomes.branching == 2
    many = MDP.from_arrays(np.full((20, 2, 20), 0.05), np.zeros((20, 2)))
    assert many.outcomes.branching == 0
    np.testing.assert_array_equal(np.diff(many.outcomes.offsets), 20)


def test_one_pair_with_several_outcomes_does_not_make_the_others_larger():
    transitions = np.eye(30)[np.random.default_rng(0).integers(0, 30, (30, 2))]
    transitions[4, 1] = 0
    transitions[4, 1, :MAX_BRANCHING] = 1 / MAX_BRANCHING
    mdp = MDP.from_arrays(transitions, np.zeros((30, 2)))
    assert mdp.outcomes.records.size == 60 - 1 + MAX_BRANCHING


@pytest.mark.parametrize("most", [1, 3, 12])
def test_an_mdp_that_was_pickled_is_the_same(most: int):
    transitions, rewards = random_dense(2, 15, 2, most)
    mdp = MDP.from_arrays(transitions, rewards, terminal=[1], max_episode_steps=9, name="pickled")
    again = pickle.loads(pickle.dumps(mdp.world()))  # noqa: S301
    assert again.key == mdp.world().key
    assert (again.name, again.max_episode_steps) == ("pickled", 9)
    np.testing.assert_array_equal(again.mdp().solve(0.9), mdp.solve(0.9))


def test_start_distributions():
    np.testing.assert_array_equal(two_states().start_distribution(), [0.5, 0.5])
    np.testing.assert_array_equal(two_states(terminal=[0]).start_distribution(), [0, 1])
    np.testing.assert_array_equal(two_states(start=1).start_distribution(), [0, 1])
    np.testing.assert_allclose(two_states(start=[0.25, 0.75]).start_distribution(), [0.25, 0.75])


def test_probabilities_within_the_tolerance_are_divided_by_their_sum():
    transitions = np.array([[[1 + 5e-9, 0], [0.5, 0.5 + 5e-9]], [[0, 1], [0.5, 0.5]]])
    np.testing.assert_allclose(two_states(transitions=transitions).evaluate([1, 1], 0.5).v, [3, 5], atol=2e-8)
    assert two_states(transitions=transitions).outcomes.records["cumulative"].max() == 1


def test_what_leads_out_of_terminal_states_and_masked_pairs_is_not_looked_at():
    transitions = np.array([[[1, 0], [0.5, 0.5]], [[0, 0], [np.nan, -3]]])
    rewards = np.array([[0.0, 1.0], [np.inf, np.nan]])
    q = two_states(transitions=transitions, rewards=rewards, terminal=[False, True]).solve(0.5)
    np.testing.assert_allclose(q[1], 0)
    nexts = np.array([[0, 99], [1, 0]])
    allowed = np.array([[True, False], [True, True]])
    rewards = np.array([[1.0, np.nan], [np.nan, np.inf]])
    q = two_states(transitions=nexts, rewards=rewards, allowed=allowed, terminal=[1]).solve(0.5)
    np.testing.assert_allclose(q, [[2, -np.inf], [0, 0]])


def test_the_users_arrays_are_left_as_they_were():
    matrix = scipy.sparse.csr_array(np.array([[0.5, 0.5], [1.0, 0.0]]))
    before = matrix.copy()
    MDP.from_arrays(matrix, np.zeros((2, 1)))
    np.testing.assert_array_equal(matrix.toarray(), before.toarray())
    np.testing.assert_array_equal(matrix.data, before.data)


def test_both_names_are_public():
    assert qfleet.MDP is MDP
    assert isinstance(two_states().world(), qfleet.World)


BAD_SUM = np.array([[[1, 0], [0.5, 0.4]], [[0, 1], [0.5, 0.5]]])
BAD_SIGN = np.array([[[1, 0], [0.5, 0.5]], [[-0.5, 1.5], [0.5, 0.5]]])
BAD_NAN = np.array([[[1, 0], [0.5, 0.5]], [[0, 1], [np.nan, 0.5]]])
BAD_ROW = np.array([[[1, 0], [0, 0]], [[0, 1], [0.5, 0.5]]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transitions": BAD_SUM},
            r"two: state 0, action 1: the probabilities sum to 0\.9; they must sum to 1",
        ),
        ({"transitions": BAD_SIGN}, r"two: state 1, action 0: a probability is -0\.5"),
        ({"transitions": BAD_NAN}, "two: state 1, action 1: a probability is nan"),
        (
            {"transitions": BAD_ROW},
            "two: state 0, action 1: no transition has a probability; mask the action",
        ),
        (
            {"transitions": [[0, 1], [2, 0]]},
            "two: state 1, action 0: the next state 2 is out of range; .* 0 to 1",
        ),
        ({"transitions": [[0, 1], [0, -1]]}, "two: state 1, action 1: the next state -1 is out of range"),
        ({"rewards": [[0, 1], [np.inf, 0]]}, "two: state 1, action 0: the reward is inf; it must be finite"),
        (
            {"transitions": [[0, 1], [0, 1]], "rewards": [[0, np.nan], [0, 0]]},
            "two: state 0, action 1: the reward is nan",
        ),
        ({"transitions": [[0.0, 1.0], [1.0, 0.0]]}, r"transitions are float64 of shape \(2, 2\); .* must be"),
        ({"transitions": np.zeros((2, 2, 3))}, r"transitions are float64 of shape \(2, 2, 3\)"),
        ({"transitions": scipy.sparse.csr_array((3, 2))}, r"sparse transitions have shape \(3, 2\)"),
        ({"transitions": np.zeros((0, 2), int), "rewards": np.zeros((0, 2))}, "0 states and 2 actions"),
        ({"rewards": np.zeros(2)}, r"rewards have shape \(2,\)"),
        (
            {"transitions": [[0, 1], [0, 1]], "rewards": [[0.0], [1.0]]},
            r"next states are \(2, 2\), so rewards",
        ),
        ({"rewards": [["a", "b"], ["c", "d"]]}, "rewards are <U1; they must be integers or floating-point"),
        ({"terminal": [True]}, r"terminal has shape \(1,\); it must be \(2,\)"),
        ({"terminal": [5]}, "the terminal state 5 is out of range"),
        ({"terminal": [0.5]}, "terminal must be"),
        ({"terminal": [0, 1]}, "all states are terminal"),
        ({"start": 2}, "the start 2 is out of range"),
        ({"start": [0.5, 0.4]}, r"the start probabilities sum to 0\.9; they must sum to 1"),
        ({"start": [-0.5, 1.5]}, r"the start probability of state 0 is -0\.5"),
        ({"start": [1.0]}, r"start is float64 of shape \(1,\); it must be a state, or \(2,\)"),
        ({"start": 1, "terminal": [1]}, "state 1 is terminal, and episodes would start there"),
        ({"allowed": [[True, True]]}, r"allowed has shape \(1, 2\); it must be \(2, 2\)"),
        ({"allowed": [[2, 1], [1, 1]]}, "allowed has entries other than 0 and 1"),
        ({"allowed": [[True, True], [False, False]]}, "state 1 is not terminal and has no allowed action"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0; it must be at least 1, or None"),
    ],
)
def test_what_is_no_mdp_is_refused_with_the_place_named(changes: dict, message: str):
    with pytest.raises(QfleetError, match=message):
        two_states(**changes)


def test_errors_beyond_the_first_part_of_a_large_mdp_name_the_right_state():
    nexts = np.zeros((300_000, 4), np.int32)
    rewards = np.zeros((300_000, 4), np.float32)
    rewards[299_999, 2] = np.inf
    with pytest.raises(QfleetError, match="state 299999, action 2: the reward is inf"):
        MDP.from_arrays(nexts, rewards)
