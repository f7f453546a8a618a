"""Observations of every supported space as arrays."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from qfleet.environments.spaces import ObservationEncoder, discrete_actions
from qfleet.errors import QfleetError

NESTED = spaces.Dict(
    {
        "place": spaces.Tuple((spaces.Discrete(3, start=5), spaces.Box(-1, 1, (2,), np.float64))),
        "picture": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        "flags": spaces.MultiBinary(3),
        "gears": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    }
)
VECTORS = [
    (spaces.Box(-1, 1, (4,), np.float32), 4),
    (spaces.Box(-1, 1, (2, 3), np.float64), 6),
    (spaces.Box(-5, 5, (3,), np.int64), 3),
    (spaces.Box(0, 255, (128,), np.uint8), 128),
    (spaces.Discrete(7, start=-2), 7),
    (spaces.MultiBinary((2, 2)), 4),
    (spaces.MultiDiscrete([2, 5]), 7),
    (NESTED, 3 + 2 + 12 + 3 + 5),
]


@pytest.mark.parametrize(("space", "width"), VECTORS)
def test_vectors_encode_alike_one_by_one_and_in_a_batch(space, width):
    space.seed(0)
    encoder = ObservationEncoder(space)
    assert encoder.layout.shape == (width,) and encoder.layout.dtype == np.float32
    samples = [space.sample() for _ in range(6)]
    batch = concatenate(space, samples, create_empty_array(space, 6))
    assert batch in batch_space(space, 6)
    rows = encoder.encode_batch(batch, 6)
    assert rows.shape == (6, width) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.stack([encoder.encode(sample) for sample in samples]))
    assert len(np.unique(rows, axis=0)) > 1


def test_nested_values_lie_in_order():
    encoder = ObservationEncoder(NESTED)
    given = {
        "flags": np.array([1, 0, 1]),
        "gears": np.array([2, 0]),
        "picture": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        "place": (6, np.array([0.25, -0.5])),
    }
    # Gymnasium keeps a Dict's keys in the order given, if they were given as a dict.
    parts = {
        "flags": [1, 0, 1],
        "gears": [0, 1, 1, 0, 0],
        "picture": range(12),
        "place": [0, 1, 0, 0.25, -0.5],
    }
    expected = [value for key in NESTED.spaces for value in parts[key]]
    assert encoder.encode(given).tolist() == expected


@pytest.mark.parametrize(
    ("shape", "dtype", "layout_shape", "channels_last"),
    [
        ((84, 84), np.uint8, (1, 84, 84), False),
        ((4, 84, 84), np.uint8, (4, 84, 84), False),
        ((84, 84, 4), np.uint8, (84, 84, 4), True),
        ((210, 160, 3), np.uint8, (210, 160, 3), True),
        ((3, 210, 160), np.uint8, (3, 210, 160), False),
        ((10, 10, 10), np.bool_, (10, 10, 10), True),
        ((7, 7, 20), np.bool_, (7, 7, 20), True),
    ],
)
def test_images_stay_bytes_in_their_shape(shape, dtype, layout_shape, channels_last):
    dtype_of_box: Any = dtype
    space = spaces.Box(0, 1 if dtype is np.bool_ else 255, shape, dtype_of_box)
    layout = ObservationEncoder(space).layout
    assert layout.is_image and layout.dtype == np.uint8
    assert (layout.shape, layout.channels_last) == (layout_shape, channels_last)
    sample = space.sample()
    encoded = ObservationEncoder(space).encode(sample)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded.reshape(shape), sample)


def test_a_float32_batch_is_not_copied():
    batch = np.ones((3, 4), np.float32)
    assert np.shares_memory(ObservationEncoder(spaces.Box(-1, 1, (4,))).encode_batch(batch, 3), batch)


def test_what_lies_outside_its_space_is_refused():
    with pytest.raises(QfleetError, match="outside its declared space"):
        ObservationEncoder(spaces.Discrete(3)).encode_batch(np.array([3]), 1)
    with pytest.raises(QfleetError, match="shape"):
        ObservationEncoder(spaces.Box(-1, 1, (4,))).encode(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4),
        spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))),
        spaces.Graph(spaces.Discrete(2), spaces.Discrete(2)),
    ],
)
def test_other_spaces_are_refused_in_one_line(space):
    with pytest.raises(QfleetError, match="Box, Discrete") as caught:
        ObservationEncoder(space)
    assert "\n" not in str(caught.value)


def test_actions_are_discrete():
    assert discrete_actions(spaces.Discrete(4, start=2), "it") == (4, 2)
    with pytest.raises(QfleetError, match="Discrete"):
        discrete_actions(spaces.Box(-1, 1, (1,)), "it")
