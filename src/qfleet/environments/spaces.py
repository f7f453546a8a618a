"""Observation and action spaces as arrays: every observation becomes one float32 vector or uint8 image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from qfleet.environments.vector import ObservationLayout
from qfleet.errors import QfleetError

_LARGEST_RANGE = 1e6
"""Wider bounds are placeholders, such as the largest float, and say nothing of the values to expect."""


@dataclass(frozen=True)
class _Leaf:
    """One leaf of a (nested) space, and the columns it takes in the vector."""

    path: tuple[str | int, ...]
    width: int
    starts: NDArray[np.int64] | None = None
    """For categories: the smallest value of each, else None: the numbers go in as they are."""
    sizes: NDArray[np.int64] | None = None
    box: spaces.Box | None = None

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """(lowest, highest) of each column; infinite for categories and where the space sets no useful bound."""
        if self.box is None:
            return [(-np.inf, np.inf)] * self.width
        pairs = zip(self.box.low.ravel().tolist(), self.box.high.ravel().tolist(), strict=True)
        return [pair if 0 < pair[1] - pair[0] < _LARGEST_RANGE else (-np.inf, np.inf) for pair in pairs]

    def write(self, values: NDArray, out: NDArray[np.float32]) -> None:
        """Writes `values` (num_envs, ...) into `out` (num_envs, width)."""
        flat = values.reshape(len(values), -1)
        if self.starts is None or self.sizes is None:
            out[:] = flat
            return
        categories = flat.astype(np.int64) - self.starts
        if ((categories < 0) | (categories >= self.sizes)).any():
            raise QfleetError(f"an observation {flat.tolist()} lies outside its declared space")
        out[:] = 0
        columns = categories + np.concatenate(([0], np.cumsum(self.sizes)[:-1]))
        out[np.arange(len(flat))[:, None], columns] = 1


def _is_image(space: Space) -> bool:
    """Whether the observation stays uint8 in its own shape: byte images and boolean grids."""
    return (
        isinstance(space, spaces.Box) and space.dtype in (np.uint8, np.bool_) and len(space.shape) in (2, 3)
    )


def _image_layout(space: Space) -> ObservationLayout:
    """Says which axis holds the channels: the one that is not one of two equal sides, else the smaller."""
    shape = space.shape or ()
    if len(shape) == 2:
        shape, channels_last = (1, *shape), False
    else:
        first, middle, last = (int(side) for side in shape)
        channels_last = first == middle if first == middle or middle == last else last <= first
    scale = 1.0 if space.dtype == np.bool_ else 1 / 255
    return ObservationLayout(
        shape, np.dtype(np.uint8), is_image=True, channels_last=channels_last, scale=scale
    )


def _leaves(space: Space, path: tuple[str | int, ...] = ()) -> list[_Leaf]:
    """The leaves of `space` in order, depth first."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, inner in space.spaces.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, inner in enumerate(space.spaces) for leaf in _leaves(inner, (*path, i))]
    if isinstance(space, spaces.Box):
        return [_Leaf(path, int(np.prod(space.shape)), box=space)]
    if isinstance(space, spaces.MultiBinary):
        return [_Leaf(path, int(np.prod(space.shape)))]
    if isinstance(space, spaces.Discrete):
        return [_Leaf(path, int(space.n), np.array([space.start]), np.array([space.n]))]
    if isinstance(space, spaces.MultiDiscrete):
        sizes = np.asarray(space.nvec, np.int64).ravel()
        return [_Leaf(path, int(sizes.sum()), np.asarray(space.start, np.int64).ravel(), sizes)]
    where = f" at {'/'.join(map(str, path))}" if path else ""
    raise QfleetError(
        f"observation space {type(space).__name__}{where} is not supported; "
        "Box, Discrete, MultiBinary, MultiDiscrete, Dict and Tuple are"
    )


class ObservationEncoder:
    """Turns observations of one space into arrays of one layout."""

    layout: ObservationLayout

    def __init__(self, space: Space) -> None:
        self._space = space
        self._leaves = _leaves(space)
        self._is_plain = isinstance(space, (spaces.Box, spaces.MultiBinary))
        self._narrows = self._is_plain and space.dtype == np.float64
        if _is_image(space):
            self.layout = _image_layout(space)
        else:
            width = sum(leaf.width for leaf in self._leaves)
            bounds = tuple(bound for leaf in self._leaves for bound in leaf.bounds)
            self.layout = ObservationLayout((width,), np.dtype(np.float32), is_image=False, bounds=bounds)

    def encode(self, observation: Any) -> NDArray:
        """One observation as an array of the layout's shape and dtype; a fresh array."""
        out = np.empty((1, *self.layout.shape), self.layout.dtype)
        self.check_shape(observation)
        self.writer(out)(0, observation)
        return out[0]

    def encode_batch(self, observations: Any, num_envs: int) -> NDArray:
        """Batched observations (leading axis num_envs at every leaf) as (num_envs, *shape).

        Returns the very array where it is already right. Values too large for float32 become infinite.
        """
        if self._is_plain:
            with np.errstate(over="ignore"):
                array = np.asarray(observations).astype(self.layout.dtype, copy=False)
            return array.reshape(num_envs, *self.layout.shape)
        out = np.empty((num_envs, *self.layout.shape), self.layout.dtype)
        self._write_leaves(observations, out, batched=True)
        return out

    def writer(self, out: NDArray) -> Callable[[int, Any], None]:
        """A function (i, observation) that writes one observation into out[i]; `out` is (n, *shape)."""
        if isinstance(self._space, spaces.Discrete):
            return _one_hot_writer(out, int(self._space.start))
        if not self._is_plain:
            return lambda i, observation: self._write_leaves(observation, out[i : i + 1], batched=False)
        rows = out.reshape(len(out), *(self._space.shape or ()))
        return _narrowing_writer(rows) if self._narrows else rows.__setitem__

    def check_shape(self, observation: Any) -> None:
        """Raises QfleetError if a plain observation has not the shape that its space declares."""
        if self._is_plain and np.shape(observation) != self._space.shape:
            raise QfleetError(
                f"an observation has shape {np.shape(observation)}, its space declares {self._space.shape}"
            )

    def _write_leaves(self, observation: Any, out: NDArray, *, batched: bool) -> None:
        column = 0
        for leaf in self._leaves:
            values = observation
            for key in leaf.path:
                values = values[key]
            values = np.asarray(values)
            with np.errstate(over="ignore"):
                leaf.write(values if batched else values[None], out[:, column : column + leaf.width])
            column += leaf.width


def _one_hot_writer(out: NDArray, start: int) -> Callable[[int, Any], None]:
    def write(i: int, observation: Any) -> None:
        out[i] = 0
        out[i, observation - start] = 1

    return write


def _narrowing_writer(rows: NDArray) -> Callable[[int, Any], None]:
    def write(i: int, observation: Any) -> None:
        # float64 beyond float32 becomes infinite here, and the check of every step reports it.
        with np.errstate(over="ignore"):
            rows[i] = observation

    return write


def discrete_actions(space: Space, name: str) -> tuple[int, int]:
    """(number of actions, the smallest action) of a Discrete space; QfleetError for any other."""
    if not isinstance(space, spaces.Discrete):
        raise QfleetError(
            f"{name} has actions {space}, which Q-learning cannot enumerate; environments with Discrete "
            "actions work (the wrapper DiscretizeAction=k makes a one-dimensional Box discrete)"
        )
    return int(space.n), int(space.start)
