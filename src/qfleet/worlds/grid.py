"""GridWorld: a grid of cells, a reward of 1 on entering the last one, which ends the episode.

Sutton and Barto 2018, example 4.1, with a goal that pays instead of steps that cost.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.kernels import part
from qfleet.worlds.layout import Layout
from qfleet.worlds.options import WorldOptions
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

UP, DOWN, LEFT, RIGHT = range(4)

STARTS = ("uniform", "first")


@dataclass(frozen=True)
class GridOptions(WorldOptions):
    """What can be chosen of a GridWorld beside its size."""

    slip: float = 0.0
    """Probability of moving at a right angle to the action instead, half of it to either side."""
    walls: float = 0.0
    """Share of the cells drawn as walls; cells that they cut off from the goal become walls too."""
    seed: int = 0
    """Of the walls."""
    start: str = "uniform"
    """uniform: every free cell but the goal; first: the first cell."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_probability("slip")
        self.require_probability("walls", below_one=True)
        self.require_at_least("seed", 0)
        if self.start not in STARTS:
            raise QfleetError(f"start is {self.start!r}; it must be one of {', '.join(STARTS)}")


class Grid(NamedTuple):
    """What the jitted functions are given."""

    moves: NDArray[np.uint8]
    """(cells,): bit a is set where action a leads to another cell."""
    offsets: NDArray[np.int64]
    """(4,): how far in the numbering an action moves."""
    goal: int
    slip: float
    starts: NDArray[np.int32]
    """The cells that episodes begin in; empty: all but the goal."""


@part
def _step(grid, cell, action, random):
    # Without a branch: the walls that a walker meets are as good as random, and mispredicted.
    is_open = (np.int64(grid.moves[cell]) >> action) & 1
    next_cell = cell + grid.offsets[action] * is_open
    reached = next_cell == grid.goal
    return next_cell, 1.0 if reached else 0.0, reached


@part
def _slippery_step(grid, cell, action, random):
    side = (2 - (action & 2)) | np.int64(random < 0.5 * grid.slip)
    return _step(grid, cell, side if random < grid.slip else action, random)


@part
def _reset(grid, random):
    if grid.starts.size:
        return np.int64(grid.starts[np.int64(random * grid.starts.size)])
    return np.int64(random * grid.goal)


def make_grid(rows: int, columns: int, options: GridOptions, name: str) -> World:
    """GridWorld-RxC: `rows * columns` states, row by row; actions up, down, left, right.

    A move out of the grid or into a wall stays in place. Episodes begin uniformly in any free cell but the goal,
    so that every state that is not a wall is reached, whatever the policy; they are truncated after
    100 * max(rows, columns) steps.
    """
    parameters = _parameters(rows, columns, options)
    return World(
        step=_slippery_step if options.slip else _step,
        reset=_reset,
        num_states=rows * columns,
        num_actions=4,
        parameters=parameters,
        name=name,
        max_episode_steps=options.max_episode_steps or 100 * max(rows, columns),
        mdp=partial(grid_mdp, rows, columns, options, name),
        grid_shape=(rows, columns),
        successors=partial(_successors, parameters),
    )


def _successors(grid: Grid, states: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cells one step from `states` (n,), each once, but for the goal: there the episode ends."""
    near = np.unique(_targets(grid, states))
    return near[near != grid.goal]


def grid_mdp(rows: int, columns: int, options: GridOptions, name: str) -> "MDP":
    """The same world in arrays."""
    from scipy import sparse

    from qfleet.worlds.mdp import MDP

    grid = _parameters(rows, columns, options)
    num_states = rows * columns
    targets = _targets(grid, np.arange(num_states))
    pays = (targets == grid.goal).astype(float)
    starts = np.bincount(grid.starts, minlength=num_states) / grid.starts.size if grid.starts.size else None
    transitions: Any = targets
    rewards = pays
    if options.slip:
        straight, side = 1 - options.slip, 0.5 * options.slip
        mixing = np.full((4, 4), side)
        mixing[:2, :2] = mixing[2:, 2:] = np.eye(2) * straight
        from_pair = np.repeat(np.arange(4 * num_states), 4)
        entries = (
            np.tile(mixing, (num_states, 1)).ravel(),
            (from_pair, np.repeat(targets, 4, axis=0).ravel()),
        )
        transitions = sparse.coo_matrix(entries, shape=(4 * num_states, num_states)).tocsr()
        transitions.eliminate_zeros()
        rewards = pays @ mixing.T
    mdp = MDP.from_arrays(
        transitions,
        rewards,
        terminal=np.arange(num_states) == grid.goal,
        start=starts,
        max_episode_steps=options.max_episode_steps or 100 * max(rows, columns),
        name=name,
    )
    return replace(mdp, layout=Layout((rows, columns), terminal=(grid.goal,)))


def _targets(grid: Grid, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 4): where each action leads from `cells` (n,)."""
    is_open = (grid.moves[cells, None] >> np.arange(4)) & 1
    return cells[:, None] + grid.offsets * is_open


def _parameters(rows: int, columns: int, options: GridOptions) -> Grid:
    free = free_cells(rows, columns, options.walls, options.seed)
    starts = np.zeros(1) if options.start == "first" else np.flatnonzero(free.ravel()[:-1])
    return Grid(
        moves=_moves(free),
        offsets=np.array([-columns, columns, -1, 1]),
        goal=rows * columns - 1,
        slip=float(options.slip),
        starts=starts.astype(np.int32)
        if options.start == "first" or options.walls
        else np.zeros(0, np.int32),
    )


def _moves(free: NDArray[np.bool_]) -> NDArray[np.uint8]:
    moves = np.zeros(free.shape, np.uint8)
    moves[1:] |= (free[1:] & free[:-1]).astype(np.uint8) << UP
    moves[:-1] |= (free[1:] & free[:-1]).astype(np.uint8) << DOWN
    moves[:, 1:] |= (free[:, 1:] & free[:, :-1]).astype(np.uint8) << LEFT
    moves[:, :-1] |= (free[:, 1:] & free[:, :-1]).astype(np.uint8) << RIGHT
    return moves.ravel()


def free_cells(rows: int, columns: int, walls: float, seed: int) -> NDArray[np.bool_]:
    """(rows, columns): the cells that are no walls; each has a way to the last one, and the first is among them."""
    if not walls:
        return np.ones((rows, columns), np.bool_)
    from scipy import ndimage

    random = np.random.default_rng(seed)
    free = random.random((rows, columns)) >= walls
    # One random staircase from the first cell to the last stays free.
    downward = random.permutation(np.arange(rows + columns - 2) < rows - 1)
    path_rows = np.concatenate([[0], np.cumsum(downward)])
    path_columns = np.concatenate([[0], np.cumsum(~downward)])
    free[path_rows, path_columns] = True
    regions: Any = ndimage.label(free)
    return regions[0] == regions[0][-1, -1]
