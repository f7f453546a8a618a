"""What a trained run becomes: something that acts on observations."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.actor import FrameStacks
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.making import make_single
from qfleet.environments.single import EnvironmentSource


@final
class Agent:
    """Greedy with respect to a run's values; takes observations as the environment gives them."""

    def __init__(
        self, source: EnvironmentSource, config: EnvironmentConfig, policy: Policy, parameters: Parameters
    ) -> None:
        single = make_single(source, config)
        single.env.close()
        self.parameters = parameters
        self._policy, self._encoder, self._action_start = policy, single.encoder, single.action_start
        layout = single.encoder.layout
        self._stacks = FrameStacks(1, single.frame_stack, layout.size, layout.dtype)
        self._started = np.ones(1, np.bool_)
        policy.load(parameters)

    @property
    def values(self) -> NDArray[np.float32]:
        """The Q-network's parameters, (num_parameters,) float32."""
        return self.parameters.vector

    def reset(self) -> None:
        """A new episode begins: forgets earlier frames. Needed only where frames are stacked."""
        self._started[:] = True

    def q_values(self, observation: Any) -> NDArray[np.float32]:
        """Q of every action, (num_actions,), after seeing one observation of the environment."""
        encoded = self._encoder.encode(observation).reshape(1, -1)
        self._stacks.push(encoded, self._started)
        self._started[:] = False
        return self._policy.values(self._stacks.stacked)[0].copy()

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None = None) -> int:
        """The best action for one observation, as the environment's `step` takes it; a masked one never."""
        values = self.q_values(observation)
        if action_mask is not None:
            values = np.where(np.asarray(action_mask, np.bool_), values, -np.inf)
        return int(np.argmax(values)) + self._action_start
