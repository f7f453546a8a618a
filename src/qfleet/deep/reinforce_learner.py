"""The REINFORCE learner: one vector of parameters, a gradient from whole episodes, and a step with it."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.episodes import Episodes
from qfleet.deep.learner import Policy
from qfleet.deep.networks import NetworkShape
from qfleet.deep.optimizer import adam
from qfleet.deep.parameters import Parameters, check_same_network
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


def baseline_shape(shape: NetworkShape) -> NetworkShape:
    """The baseline's network: the policy's layers, with one output."""
    return replace(shape, num_actions=1)


class ReinforceLearner(ABC):
    """Improves a softmax policy, and the baseline if there is one, by Monte-Carlo gradients.

    Both networks' parameters are one vector, the policy's first, so that workers exchange one array.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        policy_parameters: NDArray[np.float32],
        baseline_parameters: NDArray[np.float32],
        buffers: dict[str, NDArray],
    ) -> None:
        self.config, self.num_updates = config, 0
        self._rule, self._buffers = config.rule(), buffers
        parts = [policy_parameters, baseline_parameters] if config.baseline else [policy_parameters]
        self._num_policy = len(policy_parameters)
        self._parameters = np.concatenate(parts)
        self._first, self._second = np.zeros_like(self._parameters), np.zeros_like(self._parameters)
        self._loss_sums, self._num_gradients = np.zeros(3), 0
        self._norm_sum, self._num_applied = 0.0, 0

    @property
    def _policy_parameters(self) -> NDArray[np.float32]:
        return self._parameters[: self._num_policy]

    @property
    def _baseline_parameters(self) -> NDArray[np.float32]:
        return self._parameters[self._num_policy :]

    def gradient(self, episodes: Episodes) -> PolicyGradient:
        """The gradient of these episodes, at the parameters as they are; raises NonFiniteError."""
        vector = np.empty_like(self._parameters)
        losses = self._fill(episodes, vector)
        if not np.isfinite(losses).all():
            raise self._not_finite("loss")
        self._loss_sums += losses
        self._num_gradients += 1
        return PolicyGradient(vector, losses)

    @abstractmethod
    def _fill(self, episodes: Episodes, gradient: NDArray[np.float32]) -> Losses:
        """Writes the gradient (num_parameters,)."""

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

    @abstractmethod
    def policy(self) -> Policy:
        """A network to act with, whose values are the logits; give it parameters first."""

    def publish(self) -> Parameters:
        """A copy of the parameters: a policy acts with the first of them, a worker's gradient needs all."""
        return Parameters(self.num_updates, self._parameters.copy(), self._buffers)

    def warm_start(self, parameters: Parameters) -> None:
        """Takes published parameters; raises QfleetError if they are of another network."""
        check_same_network(len(self._parameters), parameters)
        self._parameters[:] = parameters.vector
        self._buffers = parameters.buffers

    def save_state(self) -> dict[str, Any]:
        """Everything that further updates depend on, but for the counters."""
        vectors = {"parameters": self._parameters, "first_moment": self._first, "second_moment": self._second}
        return {name: vector.copy() for name, vector in vectors.items()} | {"buffers": self._buffers}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `save_state` returned."""
        self._parameters[:] = state["parameters"]
        self._first[:], self._second[:] = state["first_moment"], state["second_moment"]
        self._buffers = state["buffers"]

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
