"""Observations to rows: tables by hand, and properties of whatever space."""

import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from qfleet.errors import NonFiniteError, QfleetError
from qfleet.states.config import StatesConfig
from qfleet.states.encoder import make_encoder, quantile_knots
from qfleet.states.tiles import tile_offsets

PLAIN = StatesConfig()
BINS = StatesConfig(discretize=4, bounds=(0.0, 1.0, -2.0, 2.0))
PLANE = spaces.Box(-10, 10, (2,), np.float64)
BY_HAND = [
    (spaces.Discrete(5, start=3), 5, [(3, 0), (np.int64(7), 4)]),
    (gymnasium.make("Blackjack-v1").observation_space, 704, [((0, 0, 0), 0), ((31, 10, 1), 703), ((2, 3, 1), 51)]),
    (spaces.MultiDiscrete([2, 3], start=[0, 1]), 6, [(np.array([0, 1]), 0), (np.array([1, 3]), 5)]),
    (spaces.MultiBinary(3), 8, [(np.array([1, 0, 1], np.int8), 5)]),
    (spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Discrete(2)}), 6, [({"a": 1, "b": 2}, 5)]),
]  # fmt: skip


@pytest.mark.parametrize(("space", "num_rows", "table"), BY_HAND)
def test_whole_numbers_are_digits(space, num_rows, table):
    encoder = make_encoder(space, PLAIN)
    assert encoder.num_rows == num_rows
    assert [encoder.rows(observation).tolist() for observation, _ in table] == [[row] for _, row in table]


@pytest.mark.parametrize(
    ("observation", "row"),
    [
        ((0.0, -2.0), 0), ((0.24, -1.01), 0), ((0.25, -2.0), 4), ((0.24, -1.0), 1), ((1.0, 2.0), 15),
        ((-99.0, 99.0), 3), ((99.0, -99.0), 12), ((0.6, 0.5), 10),
    ],
)  # fmt: skip
def test_bins_by_hand(observation, row):
    """Borders belong to the bin above; what is out of bounds falls into the outermost bin."""
    encoder = make_encoder(PLANE, BINS)
    assert encoder.num_rows == 16
    assert encoder.rows(np.array(observation, np.float32)).tolist() == [row]


def test_bins_stand_beside_whole_numbers():
    space = spaces.Tuple([spaces.Discrete(3), PLANE])
    encoder = make_encoder(space, BINS)
    assert encoder.num_rows == 48
    assert encoder.rows((2, np.array([0.6, 0.5]))).tolist() == [2 * 16 + 10]


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_every_observation_has_a_row_of_its_own(data, sizes):
    space = spaces.Tuple([spaces.Discrete(size, start=data.draw(st.integers(-3, 3))) for size in sizes])
    encoder = make_encoder(space, PLAIN)
    starts = [int(part.start) for part in space.spaces]  # pyright: ignore[reportAttributeAccessIssue]
    observations = [
        tuple(d + s for d, s in zip(digits, starts, strict=True)) for digits in np.ndindex(*sizes)
    ]
    rows = [int(encoder.rows(observation)[0]) for observation in observations]
    assert rows == list(range(encoder.num_rows))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 3), st.integers(2, 5), st.integers(1, 9),
    st.lists(st.floats(-5, 5, allow_nan=False), min_size=3, max_size=3),
)  # fmt: skip
def test_each_tiling_has_one_tile_where_the_definition_says(dimensions, bins, tilings, coordinates):
    box = spaces.Box(-5, 5, (dimensions,), np.float64)
    config = StatesConfig(discretize=bins, tilings=tilings, bounds=(-1.0, 1.0) * dimensions)
    encoder = make_encoder(box, config)
    rows = encoder.rows(np.array(coordinates[:dimensions]))
    each = (bins + 1) ** dimensions
    assert encoder.num_rows == tilings * each
    assert (rows // each == np.arange(tilings)).all()
    places = np.clip((np.array(coordinates[:dimensions]) + 1) / 2 * bins, 0, bins - 1e-9)
    shifted = places + tile_offsets(tilings, dimensions)
    tiles = np.stack(np.unravel_index(rows % each, (bins + 1,) * dimensions), axis=1)
    assert (tiles <= shifted + 1e-6).all() and (shifted < tiles + 1 + 1e-6).all()


def test_displacements_are_the_first_odd_numbers():
    np.testing.assert_allclose(tile_offsets(4, 2) * 4, [[0, 0], [1, 3], [2, 2], [3, 1]])


def test_quantiles_share_out_the_samples():
    samples = np.random.default_rng(0).normal(size=(4000, 2)) ** 3
    knots = quantile_knots(samples, 8)
    assert knots.shape == (2, 9)
    encoder = make_encoder(PLANE, StatesConfig(discretize=8), {"knots": knots})
    rows = np.array([encoder.rows(sample)[0] for sample in samples])
    assert (np.bincount(rows // 8, minlength=8) == 500).all() and (np.bincount(rows % 8) == 500).all()


def test_an_encoder_travels_and_is_made_again_from_its_state():
    config = StatesConfig(discretize=3, tilings=2, bounds=(0.0, 1.0, 0.0, 2.0))
    encoder = make_encoder(PLANE, config)
    others = [pickle.loads(pickle.dumps(encoder)), make_encoder(PLANE, config, encoder.state())]  # noqa: S301
    for observation in np.random.default_rng(0).uniform(0, 2, (20, 2)):
        for other in others:
            np.testing.assert_array_equal(other.rows(observation), encoder.rows(observation))


WRONG = [
    (spaces.Discrete(3), PLAIN, 3, "0 to 2"),
    (spaces.Discrete(3), PLAIN, 0.5, "outside its space"),
    (spaces.MultiDiscrete([2, 2]), PLAIN, np.array([0, 2]), "0 to 1"),
    (spaces.MultiDiscrete([2, 2]), PLAIN, np.array([0]), "shape"),
    (PLANE, BINS, np.zeros(3), "shape"),
    (PLANE, StatesConfig(discretize=2, tilings=2, bounds=(0.0, 1.0) * 2), np.zeros(3), "shape"),
]


@pytest.mark.parametrize(("space", "config", "observation", "says"), WRONG)
def test_observations_outside_their_space_are_refused(space, config, observation, says):
    with pytest.raises(QfleetError, match=says):
        make_encoder(space, config).rows(observation)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tilings", [0, 3])
def test_what_is_not_finite_is_refused(value, tilings):
    config = StatesConfig(discretize=4, tilings=tilings, bounds=BINS.bounds)
    with pytest.raises(NonFiniteError, match="not finite"):
        make_encoder(PLANE, config).rows(np.array([0.0, value]))


UNSUITABLE = [
    (PLANE, PLAIN, "--discretize 10 .*--algorithm dqn"),
    (PLANE, StatesConfig(discretize=4), "found by playing"),
    (PLANE, StatesConfig(discretize=4, bounds=(0.0, 1.0)), "has 2 numbers; .* needs 4"),
    (spaces.Discrete(3), StatesConfig(discretize=4), "only whole numbers"),
    (spaces.Tuple([PLANE]), StatesConfig(discretize=4, tilings=2, bounds=BINS.bounds), "tiles need a Box"),
    (spaces.Text(3), PLAIN, "Text has no states"),
    (spaces.Box(0, 1, (40,)), StatesConfig(discretize=9, bounds=(0.0, 1.0) * 40), "more than a table"),
    (spaces.MultiBinary(64), PLAIN, "more than a table"),
]


@pytest.mark.parametrize(("space", "config", "says"), UNSUITABLE)
def test_spaces_and_settings_that_do_not_go_together(space, config, says):
    with pytest.raises(QfleetError, match=says):
        make_encoder(space, config)
