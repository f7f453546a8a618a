"""The REINFORCE learner: one vector of parameters, a gradient from whole episodes, and a step with it."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.episodes import Episodes
from qfleet.deep.learner import Policy
from qfleet.deep.optimizer import adam
from qfleet.deep.parameters import Parameters, check_same_network
from qfleet.deep.policy_gradient import baseline_loss, policy_loss, returns_to_go, state_weights
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.errors import NonFiniteError

STEPS_AT_A_TIME = 1024
"""Steps that go through the networks at once: what an update needs of memory does not grow with its episodes."""


class Losses(NamedTuple):
    """What a gradient is of."""

    policy: float
    """Minus the mean over episodes of what each adds to the objective."""
    baseline: float
    """Mean over episodes of the summed half squared errors; 0 without a baseline."""
    entropy: float
    """The policy's, mean over steps."""


class PolicyGradient(NamedTuple):
    """What one worker's episodes say."""

    vector: NDArray[np.float32]
    """(num_parameters,): the gradient of both losses, to be descended; workers' are averaged."""
    losses: Losses


class Network(ABC):
    """A network whose outputs can be had, and differentiated by its parameters."""

    initial: NDArray[np.float32]
    """(num_parameters,): where it begins."""
    buffers: dict[str, NDArray]
    """What it keeps beside its parameters."""

    @abstractmethod
    def load(self, parameters: Parameters) -> None:
        """Computes with these from now on."""

    @abstractmethod
    def outputs(self, observations: NDArray) -> NDArray[np.float32]:
        """(num, num_outputs) of stacked observations (num, frame_stack * size); valid until the next call."""

    @abstractmethod
    def add_gradient(self, output_deltas: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Adds to `gradient` (num_parameters,) that of a loss whose gradient at the latest outputs is given."""

    @abstractmethod
    def policy(self) -> Policy:
        """A network of the same shape that only acts."""


@final
class ReinforceLearner:
    """Improves a softmax policy, and the baseline if there is one, by Monte-Carlo gradients.

    Both networks' parameters are one vector, the policy's first, so that workers exchange one array.
    """

    def __init__(self, config: ReinforceConfig, policy: Network, baseline: Network) -> None:
        """`policy` gives (num, num_actions) logits, `baseline` (num, 1) values."""
        self.config, self.num_updates = config, 0
        self._policy, self._baseline = policy, baseline
        self._num_policy = len(policy.initial)
        parts = [policy.initial, baseline.initial] if config.baseline else [policy.initial]
        self._parameters = np.concatenate(parts)
        self._first, self._second = np.zeros_like(self._parameters), np.zeros_like(self._parameters)
        self._loss_sums, self._num_gradients = np.zeros(3), 0
        self._norm_sum, self._num_applied = 0.0, 0

    def gradient(self, episodes: Episodes) -> PolicyGradient:
        """The gradient of these episodes, at the parameters as they are; raises NonFiniteError."""
        self._policy.load(
            Parameters(self.num_updates, self._parameters[: self._num_policy], self._policy.buffers)
        )
        if self.config.baseline:
            baseline = self._parameters[self._num_policy :]
            self._baseline.load(Parameters(self.num_updates, baseline, self._baseline.buffers))
        vector, losses = np.zeros_like(self._parameters), np.zeros(3)
        returns, weights = self._returns_and_weights(episodes)
        for start in range(0, len(returns), STEPS_AT_A_TIME):
            steps = slice(start, start + STEPS_AT_A_TIME)
            losses += self._add_gradient(episodes, steps, returns[steps], weights[steps], vector)
        if not np.isfinite(losses).all():
            raise self._not_finite("loss")
        self._loss_sums += losses
        self._num_gradients += 1
        return PolicyGradient(vector, Losses(*losses.tolist()))

    def _returns_and_weights(self, episodes: Episodes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ends = np.zeros(len(episodes.lengths))
        going_on = np.flatnonzero(episodes.truncated) if self.config.baseline else np.empty(0, np.int64)
        for start in range(0, len(going_on), STEPS_AT_A_TIME):
            rows = going_on[start : start + STEPS_AT_A_TIME]
            ends[rows] = self._baseline.outputs(episodes.final_observations[rows])[:, 0]
        returns, weights = np.empty((2, len(episodes.rewards)))
        discount = self.config.discount
        returns_to_go(episodes.rewards, episodes.lengths, ends, discount, returns)
        state_weights(episodes.lengths, discount, self.config.discount_states, weights)
        return returns, weights

    def _add_gradient(
        self,
        episodes: Episodes,
        steps: slice,
        returns: NDArray[np.float64],
        weights: NDArray[np.float64],
        vector: NDArray[np.float32],
    ) -> tuple[float, float, float]:
        """Adds these steps to the gradient; returns their part of the losses."""
        observations, num_episodes = episodes.observations[steps], len(episodes.lengths)
        advantages, baseline = returns.copy(), 0.0
        if self.config.baseline:
            values = self._baseline.outputs(observations)
            deltas = np.empty_like(values)
            baseline = baseline_loss(values, returns, num_episodes, deltas)
            advantages -= values[:, 0]
            self._baseline.add_gradient(deltas, vector[self._num_policy :])
        logits = self._policy.outputs(observations)
        deltas = np.empty_like(logits)
        policy, entropies = policy_loss(
            logits,
            episodes.masks[steps],
            episodes.actions[steps],
            advantages,
            weights,
            self.config.entropy_coefficient,
            num_episodes,
            deltas,
        )
        self._policy.add_gradient(deltas, vector[: self._num_policy])
        return policy, baseline, entropies / len(episodes.actions)

    def apply(self, vector: NDArray[np.float32]) -> float:
        """One step of Adam with a gradient (num_parameters,); returns the norm of the policy's part.

        Raises NonFiniteError, with the values as they were, if it is not finite.
        """
        if not np.isfinite(vector).all():
            raise self._not_finite("gradient")
        self.num_updates += 1
        norm = self._step(slice(0, self._num_policy), vector, self.config.learning_rate)
        self._step(slice(self._num_policy, None), vector, self.config.baseline_learning_rate)
        self._norm_sum += norm
        self._num_applied += 1
        return norm

    def _step(self, part: slice, vector: NDArray[np.float32], learning_rate: float) -> float:
        return adam(
            self._parameters[part],
            vector[part],
            self._first[part],
            self._second[part],
            self.num_updates,
            learning_rate,
            self.config.adam_epsilon,
            self.config.max_gradient_norm or np.inf,
        )

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"the {what} of update {self.num_updates + 1} is not finite; the values are as before it. "
            "A smaller --learning-rate usually helps"
        )

    def policy(self) -> Policy:
        """A network to act with, whose values are the logits; give it parameters first."""
        return self._policy.policy()

    def publish(self) -> Parameters:
        """A copy of the policy's parameters, to act with."""
        return Parameters(self.num_updates, self._parameters[: self._num_policy].copy(), self._policy.buffers)

    def warm_start(self, parameters: Parameters) -> None:
        """Begins with another run's policy; raises QfleetError if it is of another network."""
        check_same_network(self._num_policy, parameters)
        self._parameters[: self._num_policy] = parameters.vector
        self._policy.buffers = parameters.buffers

    def parameters(self) -> Parameters:
        """A copy of both networks', as workers that compute gradients need them."""
        return Parameters(self.num_updates, self._parameters.copy(), self._policy.buffers)

    def set_parameters(self, parameters: Parameters) -> None:
        """Goes on from another learner's `parameters`; the optimizer's moments stay."""
        check_same_network(len(self._parameters), parameters)
        self._parameters[:] = parameters.vector
        self._policy.buffers, self.num_updates = parameters.buffers, parameters.version

    def save_state(self) -> dict[str, Any]:
        """Everything that further updates depend on, but for the counters."""
        vectors = {"parameters": self._parameters, "first_moment": self._first, "second_moment": self._second}
        return {name: vector.copy() for name, vector in vectors.items()} | {"buffers": self._policy.buffers}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `save_state` returned."""
        self._parameters[:] = state["parameters"]
        self._first[:], self._second[:] = state["first_moment"], state["second_moment"]
        self._policy.buffers = state["buffers"]

    def take_statistics(self) -> dict[str, float]:
        """Means since the last call of losses, entropy and gradient norm; empty if there was nothing."""
        found: dict[str, float] = {}
        if self._num_gradients:
            policy, baseline, entropy = self._loss_sums / self._num_gradients
            found = {"train/loss": policy, "train/baseline_loss": baseline, "train/entropy": entropy}
        if self._num_applied:
            found["train/gradient_norm"] = self._norm_sum / self._num_applied
        self._loss_sums[:], self._num_gradients, self._norm_sum, self._num_applied = 0, 0, 0.0, 0
        return {name: float(value) for name, value in found.items()}
