"""The leaves of a nested observation space, as digits of a number in mixed radix."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from qfleet.errors import NonFiniteError, QfleetError

Read = Callable[[Any, int], int]
"""(the leaf's value, the number so far) -> the number with the leaf's digits appended."""


@dataclass(frozen=True)
class Leaf:
    """One leaf: whole numbers, or the dimensions of a Box."""

    path: tuple[str | int, ...]
    """Where it is in the observation."""
    starts: tuple[int, ...]
    """The smallest number of each of its digits."""
    sizes: tuple[int, ...]
    """How many numbers each of its digits may be; empty for a Box, whose digits are bins."""
    shape: tuple[int, ...]
    box: spaces.Box | None = None

    def reader(self, borders: list[list[float]]) -> Read:
        """Appends the leaf's digits; `borders` between the bins of each dimension, for a Box."""
        if self.box is not None:
            return _bins_reader(borders, self.shape)
        if self.shape == ():
            return _number_reader(self.starts[0], self.sizes[0])
        return _numbers_reader(self.starts, self.sizes, self.shape)


def leaves_of(space: Space, path: tuple[str | int, ...] = ()) -> tuple[Leaf, ...]:
    """The leaves of a space, depth first; QfleetError for one whose observations cannot be counted or binned."""
    if isinstance(space, spaces.Dict):
        return tuple(leaf for key, part in space.spaces.items() for leaf in leaves_of(part, (*path, key)))
    if isinstance(space, spaces.Tuple):
        return tuple(leaf for i, part in enumerate(space.spaces) for leaf in leaves_of(part, (*path, i)))
    if isinstance(space, spaces.Discrete):
        return (Leaf(path, (int(space.start),), (int(space.n),), ()),)
    if isinstance(space, spaces.MultiDiscrete):
        starts, sizes = np.ravel(space.start).tolist(), np.ravel(space.nvec).tolist()
        return (Leaf(path, tuple(map(int, starts)), tuple(sizes), space.shape),)
    if isinstance(space, spaces.MultiBinary):
        width = int(np.prod(space.shape))
        return (Leaf(path, (0,) * width, (2,) * width, space.shape),)
    if isinstance(space, spaces.Box):
        return (Leaf(path, (), (), space.shape, space),)
    where = f" at {'/'.join(map(str, path))}" if path else ""
    raise QfleetError(
        f"observation space {type(space).__name__}{where} has no states that a table can number; Discrete, "
        "MultiDiscrete, MultiBinary, Box, Tuple and Dict have"
    )


def box_values(observation: Any, leaves: tuple[Leaf, ...]) -> NDArray[np.float64]:
    """(dimensions,) the values of all Box leaves in an observation."""
    parts = [np.ravel(value_at(observation, leaf.path)) for leaf in leaves if leaf.box is not None]
    return np.concatenate(parts).astype(np.float64)


def value_at(observation: Any, path: tuple[str | int, ...]) -> Any:
    """The part of a nested observation."""
    for key in path:
        observation = observation[key]
    return observation


def _number_reader(start: int, size: int) -> Read:
    def read(value: Any, number: int) -> int:
        digit = int(value) - start
        if not 0 <= digit < size or digit + start != value:
            raise QfleetError(
                f"observation {value!r} is outside its space, the whole numbers {start} to {start + size - 1}"
            )
        return number * size + digit

    return read


def _numbers_reader(starts: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> Read:
    readers = [_number_reader(start, size) for start, size in zip(starts, sizes, strict=True)]

    def read(value: Any, number: int) -> int:
        if np.shape(value) != shape:
            raise QfleetError(f"observation {value!r} has shape {np.shape(value)}; its space says {shape}")
        for reader, digit in zip(readers, np.ravel(value).tolist(), strict=True):
            number = reader(digit, number)
        return number

    return read


def _bins_reader(borders: list[list[float]], shape: tuple[int, ...]) -> Read:
    num_bins = len(borders[0]) + 1 if borders else 1

    def read(value: Any, number: int) -> int:
        if np.shape(value) != shape:
            raise QfleetError(f"observation {value!r} has shape {np.shape(value)}; its space says {shape}")
        for dimension, coordinate in enumerate(np.ravel(value).tolist()):
            if coordinate - coordinate != 0:
                raise NonFiniteError(f"observation {value!r} is not finite")
            number = number * num_bins + bisect_right(borders[dimension], coordinate)
        return number

    return read
