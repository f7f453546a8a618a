"""What a trained run becomes: something that acts on observations."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.actor import FrameStacks
from qfleet.deep.learner import Policy
from qfleet.deep.parameters import Parameters
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.making import make_single
from qfleet.environments.single import EnvironmentSource
from qfleet.errors import QfleetError
from qfleet.sources import Source, as_world, gymnasium_source, world_of
from qfleet.states.config import StatesConfig
from qfleet.table_values import TableValues

if TYPE_CHECKING:
    from qfleet.worlds.world import World

RowsOf = Callable[[Any], NDArray[np.int64]]
"""The table's rows for an observation: one, or with tile coding several, whose values add up."""


class Agent(ABC):
    """Greedy with respect to a run's values; takes observations as the environment gives them."""

    def __init__(self, action_start: int) -> None:
        self._action_start = action_start

    @property
    @abstractmethod
    def values(self) -> NDArray[Any]:
        """A table's values, (num_states, num_actions), or a network's parameters, (num_parameters,) float32."""

    def reset(self) -> None:
        """A new episode begins: forgets earlier frames. Needed only where frames are stacked."""
        return

    @abstractmethod
    def q_values(self, observation: Any) -> NDArray[Any]:
        """Q of every action, (num_actions,), after seeing one observation of the environment."""

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None = None) -> int:
        """The best action for one observation, as the environment's `step` takes it; a masked one never."""
        values = self.q_values(observation)
        for mask in (action_mask, self._allowed(observation)):
            if mask is not None:
                values = np.where(np.asarray(mask, np.bool_), values, -np.inf)
        return int(np.argmax(values)) + self._action_start

    def _allowed(self, observation: Any) -> NDArray[np.bool_] | None:
        """Which actions the environment itself has there; None: all."""
        return None


@final
class NetworkAgent(Agent):
    """Acts by a Q-network."""

    def __init__(
        self, source: EnvironmentSource, config: EnvironmentConfig, policy: Policy, parameters: Parameters
    ) -> None:
        single = make_single(source, config)
        single.env.close()
        self.parameters = parameters
        super().__init__(single.action_start)
        self._policy, self._encoder = policy, single.encoder
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


@final
class TableAgent(Agent):
    """Acts by a table; the observations of a world are its states."""

    def __init__(
        self, values: TableValues, rows_of: RowsOf, world: "World | None" = None, action_start: int = 0
    ) -> None:
        super().__init__(action_start)
        self._values, self._rows_of, self._world = values, rows_of, world

    @property
    def values(self) -> NDArray[Any]:
        """The table, (num_states, num_actions); raises QfleetError where its shards were kept apart."""
        return self._values.merged()

    def q_values(self, observation: Any) -> NDArray[Any]:
        """Q of every action, (num_actions,); raises QfleetError for what is no state of the table."""
        rows = self._rows_of(observation)
        return sum((self._values.row(int(row)) for row in rows[1:]), self._values.row(int(rows[0])).copy())

    def _allowed(self, observation: Any) -> NDArray[np.bool_] | None:
        if self._world is None or self._world.allowed is None:
            return None
        from qfleet.worlds.masks import allowed_actions

        mask = allowed_actions(self._world, self._rows_of(observation))
        return None if mask is None else mask[0]


def make_table_agent(source: Source, states: StatesConfig, values_state: dict[str, Any]) -> TableAgent:
    """The agent of a table's run, from what its checkpoints hold of its values."""
    values, found = TableValues.from_state(values_state), world_of(source, states)
    if found is not None:
        return TableAgent(values, _state_number, as_world(found))
    from qfleet.states.encoder import make_encoder

    single = make_single(gymnasium_source(source, "q-learning"), states.environments())
    single.env.close()
    encoder = make_encoder(single.env.observation_space, states, values_state.get("encoder"))
    return TableAgent(values, encoder.rows, None, single.action_start)


def _state_number(observation: Any) -> NDArray[np.int64]:
    number = np.asarray(observation)
    if number.shape not in ((), (1,)) or number.dtype.kind not in "iu":
        raise QfleetError(f"observation {observation!r} is no state; it should be one whole number")
    return number.reshape(1).astype(np.int64)
