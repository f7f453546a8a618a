"""A greedy policy of a gridworld, coarse enough to be drawn: mean values and mean directions of blocks of states."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError

Direction = tuple[float, float]
"""(columns to the right, rows down) that an action moves; (0, 0): it stays."""

UP_DOWN_LEFT_RIGHT: tuple[Direction, ...] = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""What the actions of a gridworld do, in their order."""
LEFT_DOWN_RIGHT_UP: tuple[Direction, ...] = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""What the actions of Gymnasium's FrozenLake do, in their order."""

MAX_SIDE = 128
"""More cells than this a side would make the record large and show no more."""


@final
@dataclass(frozen=True)
class GridLayout:
    """Where the states of a gridworld lie: state = row * columns + column."""

    shape: tuple[int, int]
    """(rows, columns)."""
    walls: NDArray[np.bool_] | None = None
    """(states,): what can never be entered; None: there is none."""
    terminal: NDArray[np.bool_] | None = None
    """(states,): what ends an episode, and therefore has no values; None: there is none."""
    start: NDArray[np.bool_] | None = None
    """(states,): where an episode may start; None: not to be shown."""
    directions: tuple[Direction, ...] = UP_DOWN_LEFT_RIGHT
    """(actions,): where each action leads when nothing slips."""

    def flags(self, name: str) -> NDArray[np.bool_]:
        """`walls`, `terminal` or `start` as (rows, columns)."""
        found = getattr(self, name)
        rows, columns = self.shape
        if found is None:
            return np.zeros(self.shape, np.bool_)
        if np.size(found) != rows * columns:
            raise QfleetError(
                f"{name} of {np.size(found)} states for a {rows}×{columns} grid: give one a state"
            )
        return np.asarray(found, np.bool_).reshape(self.shape)


@final
@dataclass(frozen=True)
class PolicyMap:
    """What is drawn of a greedy policy: cells of block × block states, row by row."""

    rows: int
    """Cells from top to bottom."""
    columns: int
    """Cells from left to right."""
    block: int
    """States a side of a cell; those at the right and the bottom may hold fewer."""
    values: tuple[float | None, ...]
    """(cells,): mean of max_a Q over the cell's states; None: only walls and terminal states."""
    across: tuple[float, ...]
    """(cells,): mean of the greedy actions' directions, columns to the right."""
    down: tuple[float, ...]
    """(cells,): the same, rows down."""
    walls: tuple[int, ...] = ()
    """Cells that are walls for the greater part."""
    terminal: tuple[int, ...] = ()
    """Cells with a terminal state."""
    start: tuple[int, ...] = ()
    """Cells where an episode may start."""


def policy_map(
    state_values: NDArray[np.floating], greedy_actions: NDArray[np.integer], layout: GridLayout
) -> PolicyMap:
    """The map, of at most MAX_SIDE cells a side, of max_a Q (states,) and the greedy actions (states,).

    Raises QfleetError where the arrays do not fit the layout.
    """
    _check(state_values, greedy_actions, layout)
    block = -(-max(layout.shape) // MAX_SIDE)
    free = ~(layout.flags("walls") | layout.flags("terminal"))
    directions = np.asarray(layout.directions, np.float64)[np.asarray(greedy_actions, np.int64)]
    values = block_means(np.asarray(state_values, np.float64).reshape(layout.shape), free, block)
    across = block_means(directions[:, 0].reshape(layout.shape), free, block)
    down = block_means(directions[:, 1].reshape(layout.shape), free, block)
    rows, columns = values.shape
    walls = block_means(layout.flags("walls").astype(np.float64), np.ones(layout.shape, np.bool_), block)
    return PolicyMap(
        *(rows, columns, block),
        values=tuple(None if np.isnan(value) else float(value) for value in values.flat),
        across=tuple(np.nan_to_num(across).round(3).ravel().tolist()),
        down=tuple(np.nan_to_num(down).round(3).ravel().tolist()),
        walls=_cells(walls > 0.5),
        terminal=_cells(_any(layout.flags("terminal"), block)),
        start=_cells(_any(layout.flags("start"), block)),
    )


def block_means(values: NDArray[np.float64], counted: NDArray[np.bool_], block: int) -> NDArray[np.float64]:
    """Means over block × block squares of `values` (rows, columns) where `counted`; NaN where nothing is."""
    sums = _block_sums(np.where(counted, values, 0.0), block)
    counts = _block_sums(counted.astype(np.float64), block)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _block_sums(values: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    rows, columns = (-(-side // block) for side in values.shape)
    padded = np.zeros((rows * block, columns * block))
    padded[: values.shape[0], : values.shape[1]] = values
    return padded.reshape(rows, block, columns, block).sum(axis=(1, 3))


def _any(flags: NDArray[np.bool_], block: int) -> NDArray[np.bool_]:
    return _block_sums(flags.astype(np.float64), block) > 0


def _cells(flags: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags).tolist())


def _check(
    state_values: NDArray[np.floating], greedy_actions: NDArray[np.integer], layout: GridLayout
) -> None:
    rows, columns = layout.shape
    for name, array in (("state values", state_values), ("greedy actions", greedy_actions)):
        if np.shape(array) != (rows * columns,):
            raise QfleetError(
                f"{name} of shape {np.shape(array)} for a {rows}×{columns} grid: give one number a state"
            )
    if np.min(greedy_actions) < 0 or np.max(greedy_actions) >= len(layout.directions):
        raise QfleetError(
            f"greedy action {np.max(greedy_actions)} of a grid with {len(layout.directions)} directions: "
            "give the direction of every action"
        )
