"""Networks and observations that the tests of this folder share."""

from dataclasses import replace

import numpy as np

from qfleet.deep.networks import NetworkConfig, NetworkShape, decide
from qfleet.environments.vector import ObservationLayout

VECTOR = ObservationLayout((5,), np.dtype(np.float32), is_image=False)
BOUNDED = ObservationLayout(
    (4,),
    np.dtype(np.float32),
    is_image=False,
    bounds=((-0.07, 0.07), (-np.inf, np.inf), (0.0, 500.0), (-1.0, 3.0)),
)
GRID_LAST = ObservationLayout((7, 6, 3), np.dtype(np.uint8), is_image=True, channels_last=True)
GRID_FIRST = ObservationLayout(
    (3, 6, 8), np.dtype(np.uint8), is_image=True, channels_last=False, scale=1 / 255
)

SHAPES = {
    "mlp": decide(NetworkConfig(hidden_sizes=(16, 12)), VECTOR, 1, 3),
    "mlp-stacked": decide(NetworkConfig(hidden_sizes=(16,)), VECTOR, 4, 2),
    "mlp-bounded-stacked": decide(NetworkConfig(hidden_sizes=(16,)), BOUNDED, 3, 2),
    "mlp-dueling": decide(NetworkConfig(hidden_sizes=(16, 12), dueling=True), VECTOR, 1, 3),
    "mlp-dueling-one": decide(NetworkConfig(hidden_sizes=(9,), dueling=True), VECTOR, 2, 4),
    "grid-last": decide(NetworkConfig(hidden_sizes=(20,)), GRID_LAST, 1, 3),
    "grid-last-stacked-dueling": decide(NetworkConfig(hidden_sizes=(20, 8), dueling=True), GRID_LAST, 2, 3),
    "grid-first": decide(NetworkConfig(hidden_sizes=(20,)), GRID_FIRST, 1, 3),
    "grid-first-stacked-dueling": decide(NetworkConfig(hidden_sizes=(8,), dueling=True), GRID_FIRST, 4, 3),
}


def observations_for(shape: NetworkShape, num: int, seed: int = 0) -> np.ndarray:
    """(num, frame_stack * size): bytes for images, normal numbers else."""
    generator = np.random.default_rng(seed)
    if shape.layout.dtype == np.uint8:
        return generator.integers(0, 2 if shape.layout.scale == 1 else 256, (num, shape.num_inputs), np.uint8)
    return generator.normal(size=(num, shape.num_inputs)).astype(np.float32)


def with_actions(shape: NetworkShape, num_actions: int) -> NetworkShape:
    return replace(shape, num_actions=num_actions)
