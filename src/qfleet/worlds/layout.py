"""Where the states of a gridworld lie, so that its policy can be drawn."""

from dataclasses import dataclass
from typing import final

UP_DOWN_LEFT_RIGHT = ("up", "down", "left", "right")


@final
@dataclass(frozen=True)
class Layout:
    """States are the cells of a grid, row by row: state = row * columns + column."""

    shape: tuple[int, int]
    """(rows, columns)."""
    actions: tuple[str, ...] = UP_DOWN_LEFT_RIGHT
    """Where each action leads when nothing slips."""
    terminal: tuple[int, ...] = ()
    """States that end an episode."""
