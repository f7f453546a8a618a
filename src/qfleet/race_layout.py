"""How the policy of a gridworld is to be drawn: from what the world and its exact solution know."""

import numpy as np

from qfleet.exact_solution import ExactSolution
from qfleet.runs.policy_map import Direction, GridLayout
from qfleet.worlds.layout import Layout
from qfleet.worlds.world import World

_DIRECTIONS: dict[str, Direction] = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


def grid_layout(world: World, exact: ExactSolution | None) -> GridLayout | None:
    """Where the states lie; None if they are no grid's. Without an exact solution, walls and ends are not known."""
    layout = None if exact is None else exact.mdp.layout
    if layout is None and world.grid_shape is not None:
        layout = Layout(world.grid_shape)
    if layout is None or len(layout.actions) != world.num_actions:
        return None
    directions = tuple(_DIRECTIONS[name] for name in layout.actions)
    if exact is None:
        return GridLayout(layout.shape, directions=directions)
    terminal = np.zeros(world.num_states, np.bool_)
    terminal[list(layout.terminal)] = True
    walls = ~exact.mdp.reachable() & ~terminal
    return GridLayout(layout.shape, walls, terminal, exact.mdp.start_distribution() > 0, directions)
