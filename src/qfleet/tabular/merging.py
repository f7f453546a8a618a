"""Merging tables: pure functions of slices, one from every worker in the order of their ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import kernel

Slices = Sequence[NDArray[Any]]
"""One (n,) array a worker."""


def merge_equal(values: Slices) -> NDArray[Any]:
    """The mean of the workers' values, (n,); sums add in the order of the ranks."""
    merged = values[0].copy()
    for other in values[1:]:
        merged += other
    merged /= len(values)
    return merged


def merge_by_visits(values: Slices, log_weights: Slices) -> NDArray[Any]:
    """The mean weighted by exp(log_weights), (n,): importance averaging (Woo et al. 2023, arXiv 2305.10697).

    A log weight is the sum of -log(1 - learning rate) over a worker's updates since the last merge. Infinite ones
    (a learning rate of 1) count equally, and alone.
    """
    largest = log_weights[0].copy()
    for other in log_weights[1:]:
        np.maximum(largest, other, out=largest)
    total, weighted = np.zeros(largest.shape), np.zeros(largest.shape)
    for value, log_weight in zip(values, log_weights, strict=True):
        _add_weighted(value, log_weight, largest, weighted, total)
    weighted /= total
    return weighted.astype(values[0].dtype, copy=False)


@kernel
def _add_weighted(value, log_weight, largest, weighted, total):
    for i in range(value.size):
        # Infinity less infinity is no number: those that hold the largest weight count 1 whatever it is.
        weight = 1.0 if log_weight[i] == largest[i] else np.exp(log_weight[i] - largest[i])
        weighted[i] += weight * value[i]
        total[i] += weight


def merge_deltas(base: NDArray[Any], values: Slices) -> NDArray[Any]:
    """base + sum of what each worker changed, (n,)."""
    merged = base.copy()
    for value in values:
        merged += value - base
    return merged


def bounds_of(length: int, parts: int) -> list[int]:
    """Where to cut [0, length) into `parts` pieces that differ by at most one: parts + 1 bounds."""
    return [length * i // parts for i in range(parts + 1)]
