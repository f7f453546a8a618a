"""The policy gradient's arithmetic on arrays, and its expectation on a small MDP against theory."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qfleet.deep.compiled.reinforce import compiled_reinforce_learner
from qfleet.deep.episodes import EpisodeActor
from qfleet.deep.parameters import Parameters
from qfleet.deep.policy_gradient import (
    baseline_loss,
    log_softmax,
    policy_loss,
    returns_to_go,
    sample_actions,
    state_weights,
)
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import ReinforceLearner
from tests.deep.small_mdp import (
    DISCOUNT,
    NUM_POLICY,
    SHAPE,
    SmallMDP,
    exact_gradient,
    undiscounted_states_gradient,
)

NUM_BATCHES, EPISODES_PER_BATCH = 250, 400
BOUND = 5.5
"""Standard errors; four times 31 coordinates of 250 batch means each exceed it by chance once in 100,000 runs."""


def config_of(**changes: Any) -> ReinforceConfig:
    return ReinforceConfig(
        **{"hidden_sizes": (4,), "discount": DISCOUNT, "episodes_per_update": EPISODES_PER_BATCH} | changes
    )


def learner_of(**changes: Any) -> ReinforceLearner:
    """A policy that is far from uniform, and with a baseline one that is far from zero."""
    learner = compiled_reinforce_learner(config_of(**changes), SHAPE, 3)
    vector = learner.parameters().vector
    generator = np.random.default_rng(11)
    vector[:NUM_POLICY] = generator.normal(size=NUM_POLICY)
    vector[NUM_POLICY:] = generator.normal(size=len(vector) - NUM_POLICY)
    learner.set_parameters(Parameters(0, vector))
    return learner


@cache
def sampled_gradients() -> dict[tuple[bool, bool], NDArray[np.float64]]:
    """(batches, parameters of the policy) of minus each batch's gradient, by (discount_states, baseline)."""
    kinds = [(discounted, baseline) for discounted in (False, True) for baseline in (False, True)]
    learners = {
        kind: learner_of(discount_states=kind[0], baseline=kind[1], baseline_learning_rate=0.0)
        for kind in kinds
    }
    one = learners[False, False]
    actor = EpisodeActor(SmallMDP(EPISODES_PER_BATCH), one.policy(), one.config, num_mask_actions=3, seed=1)
    rows: dict[tuple[bool, bool], list[NDArray]] = {kind: [] for kind in kinds}
    for _ in range(NUM_BATCHES):
        episodes = actor.gather(one.publish()).episodes
        for kind, learner in learners.items():
            rows[kind].append(-learner.gradient(episodes).vector[:NUM_POLICY])
    return {kind: np.array(found, np.float64) for kind, found in rows.items()}


def distances(gradients: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """|mean - expected| in standard errors of the mean, by parameter; those of dead units have none."""
    errors = gradients.std(axis=0, ddof=1) / np.sqrt(len(gradients))
    return np.abs(gradients.mean(axis=0) - expected) / np.maximum(errors, 1e-6)


@pytest.mark.parametrize("baseline", [False, True])
def test_with_discounted_states_the_expectation_is_grad_j(baseline: bool) -> None:
    expected = exact_gradient(learner_of().publish().vector)
    found = sampled_gradients()[True, baseline]
    assert np.count_nonzero(expected) > 20
    assert distances(found, expected).max() < BOUND


@pytest.mark.parametrize("baseline", [False, True])
def test_the_usual_form_has_the_expectation_of_undiscounted_visits(baseline: bool) -> None:
    vector = learner_of().publish().vector
    found = sampled_gradients()[False, baseline]
    assert distances(found, undiscounted_states_gradient(vector)).max() < BOUND


def test_the_two_forms_are_told_apart() -> None:
    """Each lies far outside of the other's confidence region: the two tests above can fail."""
    vector = learner_of().publish().vector
    usual, discounted = undiscounted_states_gradient(vector), exact_gradient(vector)
    for baseline in (False, True):
        assert distances(sampled_gradients()[False, baseline], discounted).max() > 3 * BOUND
        assert distances(sampled_gradients()[True, baseline], usual).max() > 3 * BOUND


def example(num_steps: int = 40, num_actions: int = 4, *, masked: bool = True) -> dict[str, NDArray]:
    generator = np.random.default_rng(2)
    masks = generator.random((num_steps, num_actions if masked else 0)) < 0.6
    actions = generator.integers(0, num_actions, num_steps)
    if masked:
        masks[np.arange(num_steps), actions] = True
        masks[0] = np.arange(num_actions) == actions[0]
    return {
        "logits": 3 * generator.normal(size=(num_steps, num_actions)),
        "masks": masks,
        "actions": actions,
        "advantages": generator.normal(size=num_steps),
        "weights": generator.random(num_steps),
    }


def loss_of(inputs: dict[str, NDArray], logits: NDArray, coefficient: float) -> tuple[float, NDArray]:
    deltas = np.full(logits.shape, np.nan, np.float32)
    masks, actions, advantages, weights = (
        inputs[name] for name in ("masks", "actions", "advantages", "weights")
    )
    loss, _ = policy_loss(logits, masks, actions, advantages, weights, coefficient, 7, deltas)
    return loss, deltas


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coefficient", [0.0, 0.7])
def test_the_logits_gradient_is_that_of_finite_differences(coefficient: float, masked: bool) -> None:
    inputs = example(masked=masked)
    logits, step = inputs["logits"], 1e-5
    _, deltas = loss_of(inputs, logits, coefficient)
    for i, k in np.ndindex(logits.shape):
        change = np.zeros_like(logits)
        change[i, k] = step
        above, below = (loss_of(inputs, logits + sign * change, coefficient)[0] for sign in (1, -1))
        assert deltas[i, k] == pytest.approx((above - below) / (2 * step), abs=2e-6)


def test_loss_and_entropy_are_those_of_pytorchs_distributions() -> None:
    inputs = example()
    logits = torch.from_numpy(inputs["logits"]).masked_fill(~torch.from_numpy(inputs["masks"]), -1e30)
    policy = torch.distributions.Categorical(logits=logits)
    chosen = policy.log_prob(torch.from_numpy(inputs["actions"])).numpy()
    entropy = policy.entropy().numpy()
    expected = -(inputs["weights"] * (inputs["advantages"] * chosen + 0.7 * entropy)).sum() / 7
    deltas = np.empty(logits.shape, np.float32)
    given, masks, actions, advantages, weights = inputs.values()
    loss, entropies = policy_loss(given, masks, actions, advantages, weights, 0.7, 7, deltas)
    assert loss == pytest.approx(expected, rel=1e-9)
    assert entropies == pytest.approx(entropy.sum(), rel=1e-9)


def test_masked_actions_have_probability_zero_and_no_gradient() -> None:
    inputs = example()
    masked = ~inputs["masks"]
    _, deltas = loss_of(inputs, inputs["logits"], 0.7)
    assert masked.any() and (deltas[masked] == 0).all() and np.isfinite(deltas).all()
    log_policy = np.empty(4)
    for logits, mask in zip(inputs["logits"], inputs["masks"], strict=True):
        log_softmax(logits, mask, log_policy)
        assert (np.exp(log_policy)[~mask] == 0).all()
        assert np.exp(log_policy).sum() == pytest.approx(1)


def test_large_logits_neither_overflow_nor_vanish() -> None:
    log_policy = np.empty(3)
    log_softmax(np.array([1e5, 1e5, -1e5], np.float32), np.ones(0, np.bool_), log_policy)
    np.testing.assert_allclose(log_policy, [np.log(0.5), np.log(0.5), -2e5], rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_draws_follow_the_softmax(masked: bool) -> None:
    num = 200_000
    logits = np.tile(np.array([[0.5, -1.0, 1.5, 9.0]], np.float32), (num, 1))
    masks = np.tile(np.array([[True, True, True, False]] if masked else [[]], np.bool_), (num, 1))
    actions = np.empty(num, np.int64)
    sample_actions(logits, masks, 3, 8, actions)
    weights = np.exp(logits[0].astype(np.float64)) * (masks[0] if masked else 1)
    expected = weights / weights.sum()
    spread = np.sqrt(expected * (1 - expected) / num)
    frequencies = np.bincount(actions, minlength=4) / num
    assert (np.abs(frequencies - expected) <= 4.9 * spread).all()
    again = np.empty(num, np.int64)
    sample_actions(logits, masks, 3, 8, again)
    np.testing.assert_array_equal(actions, again)
    sample_actions(logits, masks, 3, 9, again)
    assert (actions != again).any()


def test_draws_from_what_is_not_finite_are_marked() -> None:
    actions = np.empty(2, np.int64)
    sample_actions(
        np.array([[np.nan, 0.0], [0.0, 0.0]], np.float32), np.ones((2, 0), np.bool_), 0, 0, actions
    )
    assert actions[0] == -1 and actions[1] in (0, 1)


def test_returns_and_weights_are_those_of_each_episode() -> None:
    rewards, lengths = np.array([1.0, 2.0, 3.0, 10.0, 20.0]), np.array([3, 2])
    returns, weights = np.empty(5), np.empty(5)
    returns_to_go(rewards, lengths, np.array([0.0, 100.0]), 0.5, returns)
    np.testing.assert_allclose(returns, [1 + 1 + 0.75, 2 + 1.5, 3, 10 + 10 + 25, 20 + 50])
    state_weights(lengths, 0.5, True, weights)
    np.testing.assert_allclose(weights, [1, 0.5, 0.25, 1, 0.5])
    state_weights(lengths, 0.5, False, weights)
    np.testing.assert_array_equal(weights, np.ones(5))


def test_the_baselines_gradient_is_the_error() -> None:
    values, returns = np.array([[1.0], [4.0]], np.float32), np.array([3.0, 2.0])
    deltas = np.empty((2, 1), np.float32)
    assert baseline_loss(values, returns, 4, deltas) == pytest.approx((4 + 4) / 2 / 4)
    np.testing.assert_allclose(deltas, [[-0.5], [0.5]])
