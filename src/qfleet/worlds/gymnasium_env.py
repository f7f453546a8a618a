"""A world as a Gymnasium environment, for whoever learns a network of it."""

from typing import TYPE_CHECKING, Any, final

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

from qfleet.errors import QfleetError
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP


@final
class WorldEnv(gymnasium.Env):
    """One episode after another in a world; observations are its states' numbers."""

    def __init__(self, world: World) -> None:
        self.world, self.state = world, 0
        self.observation_space = spaces.Discrete(world.num_states)
        self.action_space = spaces.Discrete(world.num_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Gymnasium's."""
        super().reset(seed=seed)
        self.state = self._checked(self.world.reset(self.world.parameters, self.np_random.random()))
        return self.state, self._info()

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Gymnasium's; raises QfleetError where the world goes to a state that it has not."""
        found = self.world.step(self.world.parameters, self.state, int(action), self.np_random.random())
        self.state = self._checked(found[0])
        return self.state, float(found[1]), bool(found[2]), False, self._info()

    def _checked(self, state: Any) -> int:
        if not 0 <= state < self.world.num_states:
            raise QfleetError(
                f"{self.world.name} went to state {int(state)}; its states are 0 to {self.world.num_states - 1}"
            )
        return int(state)

    def _info(self) -> dict[str, Any]:
        allowed = self.world.allowed
        if allowed is None:
            return {}
        actions = range(self.world.num_actions)
        mask = [bool(allowed(self.world.parameters, self.state, action)) for action in actions]
        return {"action_mask": np.array(mask, np.int8)}


@final
class WorldMaker:
    """Makes environments of one world, with its time limit; picklable."""

    def __init__(self, found: "World | MDP") -> None:
        self.world = found if isinstance(found, World) else found.world()
        self.__name__ = self.world.name

    def __call__(self) -> gymnasium.Env:
        """A new environment."""
        env, limit = WorldEnv(self.world), self.world.max_episode_steps
        return env if limit is None else wrappers.TimeLimit(env, limit)
