"""Tile coding (Sutton and Barto 2018, section 9.5.4): several grids, each displaced a little against the others."""

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import kernel


def tile_offsets(num_tilings: int, num_dimensions: int) -> NDArray[np.float64]:
    """(num_tilings, num_dimensions): by which share of a tile, below 1, each grid is displaced.

    Displacements are multiples of the first odd numbers 1, 3, 5, ... (Miller and Glanz 1996), so that tiles of
    different grids do not lie along the diagonals.
    """
    numbers, odds = np.arange(num_tilings)[:, None], 2 * np.arange(num_dimensions)[None, :] + 1
    return (numbers * odds % num_tilings) / num_tilings


@kernel
def write_tiles(values, knots, offsets, out):
    """Writes the number of each grid's tile that holds `values` into `out`; False if a value is not finite.

    `values` (dimensions,) float64; `knots` (dimensions, bins + 1) ascending, the borders of a grid that is not
    displaced; `offsets` as `tile_offsets` gives them; `out` (tilings,) int64. A displaced grid has bins + 1 tiles a
    dimension. Values out of bounds are in the outermost tile.
    """
    num_bins = knots.shape[1] - 1
    out[:] = 0
    for dimension in range(values.size):
        value, borders = values[dimension], knots[dimension]
        if not np.isfinite(value):
            return False
        bin_number = min(max(np.searchsorted(borders, value, side="right") - 1, 0), num_bins - 1)
        width = borders[bin_number + 1] - borders[bin_number]
        inside = (value - borders[bin_number]) / width if width > 0 else 0.0
        inside = min(max(inside, 0.0), 1.0 - 1e-9)
        for tiling in range(out.size):
            tile = bin_number + np.int64(np.floor(inside + offsets[tiling, dimension]))
            out[tiling] = out[tiling] * (num_bins + 1) + tile
    tiles_per_grid = (num_bins + 1) ** values.size
    for tiling in range(out.size):
        out[tiling] += tiling * tiles_per_grid
    return True
