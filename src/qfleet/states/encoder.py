"""From an observation to the row of the table that holds its values, or to the active tiles of each tiling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, final

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from qfleet.errors import NonFiniteError, QfleetError
from qfleet.states.config import StatesConfig
from qfleet.states.leaves import Leaf, leaves_of, value_at
from qfleet.states.tiles import tile_offsets, write_tiles

LARGEST_NUM_ROWS = 2**31
"""More would be 16 GB for each action; whoever needs them needs another way of telling states apart."""


@final
@dataclass(frozen=True, eq=False)
class StateEncoder:
    """Numbers the observations of one space; picklable."""

    leaves: tuple[Leaf, ...]
    knots: NDArray[np.float64]
    """(Box dimensions, bins + 1) ascending: the borders of the bins, the outermost included."""
    num_tilings: int = 0
    """Displaced grids, of which each has one active tile; 0: one number for each observation."""

    def __post_init__(self) -> None:
        if self.num_rows > LARGEST_NUM_ROWS:
            what = "tiles" if self.num_tilings else "states"
            raise QfleetError(
                f"the observations make {self.num_rows:,} {what}, more than a table can have ({LARGEST_NUM_ROWS:,}); "
                "fewer bins (--discretize), or --algorithm dqn"
            )

    @cached_property
    def num_rows(self) -> int:
        """Of the table: states, or the tiles of all tilings."""
        dimensions, num_bins = len(self.knots), self.knots.shape[1] - 1
        if self.num_tilings:
            return self.num_tilings * (num_bins + 1) ** dimensions
        return prod(prod(leaf.sizes) for leaf in self.leaves) * max(num_bins, 1) ** dimensions

    def state(self) -> dict[str, NDArray[np.float64]]:
        """What `make_encoder` makes the same encoder from; empty where there are no bins."""
        return {"knots": self.knots} if len(self.knots) else {}

    def rows(self, observation: Any) -> NDArray[np.int64]:
        """The rows (max(1, num_tilings),) whose sum are the observation's values; QfleetError if it is in no space."""
        if not self.num_tilings:
            return np.array([self.reader()(observation)])
        out = np.empty(self.num_tilings, np.int64)
        self.tile_writer(out)(observation)
        return out

    def reader(self) -> Callable[[Any], int]:
        """A function from an observation to its row; it raises QfleetError, of numbers not finite NonFiniteError."""
        borders = iter(self.knots[:, 1:-1].tolist())
        reads = []
        for leaf in self.leaves:
            dimensions = int(np.prod(leaf.shape)) if leaf.box is not None else 0
            reads.append((leaf.path, leaf.reader([next(borders) for _ in range(dimensions)])))
        if len(reads) == 1 and not reads[0][0]:
            read_only = reads[0][1]
            return lambda observation: read_only(observation, 0)

        def read(observation: Any) -> int:
            number = 0
            for path, append in reads:
                number = append(value_at(observation, path), number)
            return number

        return read

    def tile_writer(self, out: NDArray[np.int64]) -> Callable[[Any], int]:
        """A function that writes an observation's active tiles into `out` (num_tilings,); its result means nothing."""
        values = np.empty(len(self.knots))
        shape, knots = self.leaves[0].shape, self.knots
        offsets, shaped = tile_offsets(self.num_tilings, len(knots)), values.reshape(shape)

        def write(observation: Any) -> int:
            if np.shape(observation) != shape:
                raise QfleetError(f"observation {observation!r} has another shape than its space's, {shape}")
            shaped[...] = observation
            if not write_tiles(values, knots, offsets, out):
                raise NonFiniteError(f"observation {observation!r} is not finite")
            return 0

        return write


def make_encoder(
    space: Space, config: StatesConfig, state: Mapping[str, Any] | None = None, name: str = "the environment"
) -> StateEncoder:
    """The encoder of a space; QfleetError where the config does not suit it, or borders have to be found by playing.

    `state` is an encoder's `state()`: the borders that a run began with.
    """
    leaves = leaves_of(space)
    dimensions = sum(int(np.prod(leaf.shape)) for leaf in leaves if leaf.box is not None)
    _refuse(space, config, dimensions, name)
    if not dimensions:
        return StateEncoder(leaves, np.empty((0, 1)), 0)
    if state:
        return StateEncoder(leaves, np.asarray(state["knots"], np.float64), config.tilings)
    if not config.bounds:
        raise QfleetError(f"{name}: the borders of bins are found by playing; give --bounds, or begin a run")
    lows, highs = np.array(config.bounds[::2]), np.array(config.bounds[1::2])
    return StateEncoder(leaves, np.linspace(lows, highs, config.discretize + 1, axis=1), config.tilings)


def needs_play(space: Space, config: StatesConfig) -> bool:
    """Whether the borders of the bins have to be found by playing."""
    return not config.bounds and any(leaf.box is not None for leaf in leaves_of(space))


def quantile_knots(samples: NDArray[np.float64], num_bins: int) -> NDArray[np.float64]:
    """(dimensions, num_bins + 1) from samples (n, dimensions): each bin holds as many of them."""
    return np.quantile(samples, np.linspace(0, 1, num_bins + 1), axis=0).T.copy()


def _refuse(space: Space, config: StatesConfig, dimensions: int, name: str) -> None:
    if dimensions and not config.discretize:
        raise QfleetError(
            f"{name} has observations {_short(space)}, which a table cannot number; --discretize 10 cuts each of "
            f"their {dimensions} dimensions into bins, --algorithm dqn takes them as they are"
        )
    if not dimensions and config.discretize:
        raise QfleetError(f"discretize {config.discretize}: {name} has only whole numbers; leave it out")
    if config.bounds and len(config.bounds) != 2 * dimensions:
        raise QfleetError(
            f"bounds has {len(config.bounds)} numbers; {name} has {dimensions} dimensions, so that it needs "
            f"{2 * dimensions}: low high for each"
        )
    if config.tilings and not isinstance(space, spaces.Box):
        raise QfleetError(
            f"tilings {config.tilings}: {name} has observations {_short(space)}; tiles need a Box"
        )


def _short(space: Space) -> str:
    return " ".join(str(space).split())[:100]
