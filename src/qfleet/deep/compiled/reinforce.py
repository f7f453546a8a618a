"""REINFORCE's networks on the compiled kernels."""

from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.layers import backward, forward, make_scratch
from qfleet.deep.compiled.learner import CompiledPolicy
from qfleet.deep.networks import NetworkShape, compiled_plan
from qfleet.deep.parameters import Parameters, initial_parameters
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import Network, ReinforceLearner


@final
class CompiledNetwork(Network):
    """A plan."""

    def __init__(self, shape: NetworkShape, seed: int) -> None:
        self._plan, slots = compiled_plan(shape)
        self._num_inputs = shape.num_inputs
        self.initial, self.buffers = initial_parameters(slots, seed), {}
        self._vector, self._gradient = self.initial, np.empty_like(self.initial)
        self._scratch = make_scratch(self._plan, 0, shape.num_inputs)

    def load(self, parameters: Parameters) -> None:
        """Computes with these from now on."""
        self._vector = parameters.vector

    def outputs(self, observations: NDArray) -> NDArray[np.float32]:
        """(num, num_outputs); valid until the next call."""
        if len(self._scratch.values) < len(observations):
            self._scratch = make_scratch(self._plan, len(observations), self._num_inputs)
        return forward(self._plan, self._vector, observations, self._scratch)

    def add_gradient(self, output_deltas: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Backward through the latest outputs."""
        backward(self._plan, self._vector, output_deltas, self._scratch, self._gradient)
        gradient += self._gradient

    def policy(self) -> CompiledPolicy:
        """A plan of the same shape to act with."""
        return CompiledPolicy(self._plan, self._num_inputs)


def compiled_reinforce_learner(config: ReinforceConfig, shape: NetworkShape, seed: int) -> ReinforceLearner:
    """REINFORCE with a policy of this shape, and a baseline of the same layers."""
    baseline = CompiledNetwork(replace(shape, num_actions=1), seed + 1)
    return ReinforceLearner(config, CompiledNetwork(shape, seed), baseline)
