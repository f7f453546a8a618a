"""Exact solutions, against hand-computed values and dense linear algebra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfleet.errors import QfleetError
from qfleet.tabular.exact import Boltzmann, EpsilonGreedy, PolicyRule
from qfleet.worlds.mdp import MDP

# Three states in a row, the last terminal; action 0 stays for 0, action 1 moves on for 1, then for 2.
CHAIN_NEXT = np.array([[0, 1], [1, 2], [2, 2]])
CHAIN_REWARDS = np.array([[0.0, 1.0], [0.0, 2.0], [5.0, 5.0]])


def chain() -> MDP:
    return MDP.from_arrays(CHAIN_NEXT, CHAIN_REWARDS, terminal=[2], start=0, name="chain")


def garnet(seed: int, num_states: int = 30, num_actions: int = 3, branching: int = 4) -> tuple:
    """Dense transitions and rewards (S, A, S) with `branching` outcomes a pair."""
    generator = np.random.default_rng(seed)
    transitions = np.zeros((num_states, num_actions, num_states))
    for pair in np.ndindex(num_states, num_actions):
        transitions[pair][generator.choice(num_states, branching, replace=False)] = generator.dirichlet(
            np.ones(branching)
        )
    return transitions, generator.normal(size=(num_states, num_actions))


def dense_policy_values(
    transitions: np.ndarray, rewards: np.ndarray, policy: np.ndarray, discount: float
) -> np.ndarray:
    moves = np.einsum("sa,sat->st", policy, transitions)
    gains = (policy * rewards).sum(axis=1)
    return np.linalg.solve(np.eye(len(gains)) - discount * moves, gains)


def rule_policy(rule: PolicyRule, q: np.ndarray) -> np.ndarray:
    """(S, A) probabilities of a rule for values q, without masks."""
    if isinstance(rule, Boltzmann):
        weights = np.exp((q - q.max(axis=1, keepdims=True)) / rule.temperature)
        return weights / weights.sum(axis=1, keepdims=True)
    epsilon = rule.epsilon if isinstance(rule, EpsilonGreedy) else float(rule == "uniform")
    greedy = np.eye(q.shape[1])[q.argmax(axis=1)]
    return (1 - epsilon) * greedy + epsilon / q.shape[1]


def test_the_optimum_of_a_chain_is_what_the_hand_computes():
    q = chain().solve(0.9)
    np.testing.assert_allclose(q, [[0.9 * 2.8, 1 + 0.9 * 2], [0.9 * 2, 2], [0, 0]], rtol=1e-15)


def test_epsilon_greedy_values_of_a_chain_are_what_the_hand_computes():
    q = chain().fixed_point(0.5, EpsilonGreedy(0.2))
    # v1 = 0.9 * 2 + 0.1 * v1 / 2 and v0 = 0.9 * (1 + v1 / 2) + 0.1 * v0 / 2
    v1 = 1.8 / 0.95
    v0 = 0.9 * (1 + v1 / 2) / 0.95
    np.testing.assert_allclose(q, [[v0 / 2, 1 + v1 / 2], [v1 / 2, 2], [0, 0]], rtol=1e-14)


def test_uniform_values_of_a_chain_are_what_the_hand_computes():
    v1 = 1 / (1 - 0.25)
    v0 = (0.5 + 0.25 * v1) / (1 - 0.25)
    q = chain().fixed_point(0.5, "uniform")
    np.testing.assert_allclose(q[:2], [[v0 / 2, 1 + v1 / 2], [v1 / 2, 2]], rtol=1e-14)


@pytest.mark.parametrize("rule", ["greedy", "uniform", EpsilonGreedy(0.3), Boltzmann(2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_a_fixed_point_is_the_value_of_its_own_policy(rule: PolicyRule, seed: int):
    transitions, rewards = garnet(seed)
    q = MDP.from_arrays(transitions, rewards).fixed_point(0.95, rule)
    v = dense_policy_values(transitions, rewards, rule_policy(rule, q), 0.95)
    np.testing.assert_allclose(q, rewards + 0.95 * transitions @ v, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), discount=st.floats(0, 0.99), branching=st.integers(1, 12))
def test_the_optimum_is_no_worse_than_any_policy_and_leaves_no_residual(seed, discount, branching):
    transitions, rewards = garnet(seed, 15, 2, branching)
    mdp = MDP.from_arrays(transitions, rewards)
    q = mdp.solve(discount)
    scale = max(1.0, np.abs(q).max())
    assert mdp.bellman_residual(q, discount) <= 1e-13 * scale
    policy = np.random.default_rng(seed).integers(0, 2, 15)
    assert (mdp.evaluate(policy, discount).v <= q.max(axis=1) + 1e-12 * scale).all()


@pytest.mark.parametrize("seed", range(3))
def test_evaluation_agrees_with_a_linear_solve(seed: int):
    transitions, rewards = garnet(seed)
    generator = np.random.default_rng(seed)
    policy, start = generator.dirichlet(np.ones(3), 30), generator.dirichlet(np.ones(30))
    values = MDP.from_arrays(transitions, rewards, start=start).evaluate(policy, 0.9)
    v = dense_policy_values(transitions, rewards, policy, 0.9)
    np.testing.assert_allclose(values.v, v, atol=1e-12)
    np.testing.assert_allclose(values.q, rewards + 0.9 * transitions @ v, atol=1e-12)
    assert values.j == pytest.approx(start @ v, abs=1e-12)


def test_a_policy_of_actions_is_a_policy_of_certain_probabilities():
    transitions, rewards = garnet(5)
    mdp, actions = MDP.from_arrays(transitions, rewards), np.arange(30) % 3
    np.testing.assert_array_equal(mdp.evaluate(actions, 0.9).q, mdp.evaluate(np.eye(3)[actions], 0.9).q)


def test_the_residual_of_wrong_values_is_their_largest_error_of_one_step():
    values = np.zeros((3, 2))
    assert chain().bellman_residual(values, 0.9) == 2.0
    values[1, 0] = -7.0
    assert chain().bellman_residual(values, 0.9) == 7.0


def test_masked_actions_are_worth_minus_infinity_and_never_bootstrapped_from():
    allowed = np.array([[True, True], [True, False], [True, True]])
    mdp = MDP.from_arrays(CHAIN_NEXT, CHAIN_REWARDS, terminal=[2], allowed=allowed, start=0)
    np.testing.assert_allclose(mdp.solve(0.9), [[0.9, 1], [0, -np.inf], [0, 0]])
    uniform = mdp.fixed_point(0.5, "uniform")
    np.testing.assert_allclose(uniform[:2], [[0.5 * 0.5 / 0.75, 1], [0, -np.inf]])
    np.testing.assert_array_equal(mdp.reachable(), [True, True, False])
    assert mdp.bellman_residual(mdp.solve(0.9), 0.9) == 0
    assert mdp.optimal_return(10) == 1


def test_reachable_states_are_those_before_the_end():
    np.testing.assert_array_equal(chain().reachable(), [True, True, False])
    later = MDP.from_arrays(CHAIN_NEXT, CHAIN_REWARDS, terminal=[2], start=1)
    np.testing.assert_array_equal(later.reachable(), [False, True, False])
    anywhere = MDP.from_arrays(CHAIN_NEXT, CHAIN_REWARDS)
    assert anywhere.reachable().all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_reachable_states_are_those_of_the_graphs_closure(seed: int):
    transitions, rewards = garnet(seed, 20, 1, 1)
    mdp = MDP.from_arrays(transitions, rewards, start=3)
    closure = np.linalg.matrix_power(np.eye(20) + (transitions[:, 0] > 0), 20)[3] > 0
    np.testing.assert_array_equal(mdp.reachable(), closure)


@pytest.mark.parametrize(("max_steps", "expected"), [(1, 1.0), (2, 3.0), (3, 3.0), (10**9, 3.0)])
def test_the_optimal_return_of_a_chain_counts_the_steps(max_steps: int, expected: float):
    assert chain().optimal_return(max_steps) == expected


def test_the_optimal_return_agrees_with_backward_induction():
    transitions, rewards = garnet(7)
    v = np.zeros(30)
    for _ in range(40):
        v = (rewards + transitions @ v).max(axis=1)
    assert MDP.from_arrays(transitions, rewards).optimal_return(40) == pytest.approx(v.mean(), abs=1e-11)


def test_an_optimal_return_that_would_take_too_long_is_not_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qfleet.tabular.exact.MAX_BACKUPS", 1000)
    monkeypatch.setattr("qfleet.tabular.exact._CALL_BACKUPS", 100)
    transitions, rewards = garnet(7)
    assert MDP.from_arrays(transitions, rewards).optimal_return(10_000) is None


def test_discount_1_works_where_episodes_end():
    np.testing.assert_array_equal(chain().solve(1), [[3, 3], [2, 2], [0, 0]])
    np.testing.assert_allclose(chain().evaluate([1, 1, 0], 1).v, [3, 2, 0])


def test_discount_1_where_they_need_not_end_says_that_it_does_not_converge():
    with pytest.raises(QfleetError, match="do not converge with discount 1: .* a discount below 1 works"):
        MDP.from_arrays([[0]], [[1.0]]).solve(1)


def test_a_long_way_back_takes_one_sweep_in_either_direction():
    # Value iteration without Gauss-Seidel, or in one direction only, would take 60 s here.
    size = 1_000_000
    for shift in (1, -1):
        nexts = np.clip(np.arange(size) + shift, 0, size - 1)[:, None].astype(np.int32)
        rewards = np.zeros((size, 1), np.float32)
        end = size - 1 if shift == 1 else 0
        rewards[end - shift] = 1
        q = MDP.from_arrays(nexts, rewards, terminal=[end], start=size - 1 - end).solve(1)
        assert q[size - 1 - end] == 1
        assert q[end] == 0


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([0, 1, 2], "in state 2 the policy takes an action that is not 0 to 1"),
        ([0, 1], "a policy of int64 and shape"),
        ([[0.5, 0.5], [0.5, 0.4], [1, 0]], "in state 1 the policy has probabilities that do not sum to 1"),
        ([[0.5, 0.5], [2.0, -1.0], [1, 0]], "in state 1 the policy has a probability that is negative"),
        ([[0.5, 0.5], [np.nan, 1.0], [1, 0]], "in state 1 the policy has a probability that is negative or NaN"),
    ],
)
def test_a_policy_that_is_none_is_refused(policy, message: str):
    with pytest.raises(QfleetError, match=message):
        chain().evaluate(policy, 0.9)


def test_a_policy_that_takes_a_masked_action_is_refused():
    allowed = np.array([[True, True], [True, False], [True, True]])
    mdp = MDP.from_arrays(CHAIN_NEXT, CHAIN_REWARDS, allowed=allowed)
    with pytest.raises(QfleetError, match="in state 1 the policy takes an action that is masked"):
        mdp.evaluate([0, 1, 0], 0.9)


def test_what_cannot_be_solved_is_refused():
    with pytest.raises(QfleetError, match=r"discount is 1\.5; it must be from 0 to 1"):
        chain().solve(1.5)
    with pytest.raises(QfleetError, match="epsilon is 2; it must be from 0 to 1"):
        EpsilonGreedy(2)
    with pytest.raises(QfleetError, match="temperature is 0; it must be above 0"):
        Boltzmann(0)
    with pytest.raises(QfleetError, match="policy is 'best'; it must be greedy, uniform"):
        chain().fixed_point(0.9, "best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(QfleetError, match=r"values have shape \(2, 2\); they must have \(3, 2\)"):
        chain().bellman_residual(np.zeros((2, 2)), 0.9)
