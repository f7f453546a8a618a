"""Which network an observation gets, and what every network guarantees."""

import numpy as np
import pytest
import torch

from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkConfig, compiled_plan, decide
from qfleet.deep.parameters import initial_parameters
from qfleet.environments.vector import ObservationLayout
from qfleet.errors import QfleetError
from tests.deep.networks import BOUNDED, SHAPES, VECTOR


def image(*shape: int, last: bool = True) -> ObservationLayout:
    return ObservationLayout(shape, np.dtype(np.uint8), is_image=True, channels_last=last)


@pytest.mark.parametrize(
    ("layout", "kind", "sizes"),
    [
        (VECTOR, "mlp", (256, 256)),
        (image(10, 10, 4), "grid", (128,)),
        (image(4, 10, 10, last=False), "grid", (128,)),
        (image(2, 9, 3), "mlp", (256, 256)),
        (image(1, 84, 84, last=False), "nature", (512,)),
        (image(36, 36, 3), "nature", (512,)),
        (image(35, 84, 3), "grid", (128,)),
    ],
)
def test_auto_picks_by_the_observation(layout, kind, sizes) -> None:
    shape = decide(NetworkConfig(), layout, 1, 3)
    assert (shape.kind, shape.hidden_sizes, shape.compilable) == (kind, sizes, kind != "nature")


@pytest.mark.parametrize(
    ("layout", "kind", "words"),
    [
        (VECTOR, "grid", "needs images"),
        (VECTOR, "nature", "mlp fits"),
        (image(2, 9, 3), "grid", "at least 3x3"),
        (image(20, 84, 3), "nature", "at least 36x36"),
    ],
)
def test_what_does_not_fit_is_refused(layout, kind, words) -> None:
    with pytest.raises(QfleetError, match=words):
        decide(NetworkConfig(network=kind), layout, 1, 3)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(QfleetError, match="hidden_sizes"):
        NetworkConfig(hidden_sizes=(64, 0))
    with pytest.raises(QfleetError, match="network is 'mpl'"):
        NetworkConfig(network="mpl")  # pyright: ignore[reportArgumentType]


def test_features_with_odd_bounds_are_rescaled_to_one() -> None:
    """Those within less than +-1 or beyond +-100; others, and those without bounds, are taken as they are."""
    shift, factor = decide(NetworkConfig(), BOUNDED, 2, 2).input_transform()
    low, high = (np.tile([pair[side] for pair in BOUNDED.bounds], 2) for side in (0, 1))
    np.testing.assert_allclose(((low - shift) * factor)[[0, 2, 3]], [-1, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(((high - shift) * factor)[[4, 6, 7]], [1, 1, 3], rtol=1e-6)
    assert (shift[1], factor[1]) == (0, 1)
    shift, factor = decide(NetworkConfig(rescale_observations=False), BOUNDED, 2, 2).input_transform()
    assert not shift.any() and (factor == 1).all()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_the_nature_network_takes_its_images(dueling: bool, last: bool) -> None:
    layout = image(36, 44, 1) if last else image(1, 36, 44, last=False)
    shape = decide(NetworkConfig(dueling=dueling), layout, 4, 5)
    network = QNetwork(shape)
    assert network(torch.zeros(2, shape.num_inputs, dtype=torch.uint8)).shape == (2, 5)


@pytest.mark.parametrize("name", [name for name in SHAPES if "dueling" in name])
def test_the_dueling_streams_are_identifiable(name: str) -> None:
    """Q - V has mean zero over the actions: a constant added to every advantage changes nothing."""
    network = QNetwork(SHAPES[name])
    observations = torch.randn(4, SHAPES[name].num_inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(observations)
        network.advantages.bias.add_(3.0)
        torch.testing.assert_close(network(observations), before, atol=1e-5, rtol=1e-5)
        network.state_value.bias.add_(2.0)
        torch.testing.assert_close(network(observations), before + 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_initial_parameters_have_pytorchs_ranges(name: str) -> None:
    _, slots = compiled_plan(SHAPES[name])
    vector = initial_parameters(slots, 4)
    assert vector.dtype == np.float32 and np.array_equal(vector, initial_parameters(slots, 4))
    assert not np.array_equal(vector, initial_parameters(slots, 5))
    end = 0
    for slot in slots:
        assert slot.offset == end
        end += slot.size
        largest = np.abs(vector[slot.offset : end]).max()
        assert largest <= 1 / np.sqrt(slot.fan_in) * 1.0000001
        if slot.size > 50:
            assert largest > 0.9 / np.sqrt(slot.fan_in)
    assert end == len(vector)


@pytest.mark.parametrize("name", SHAPES)
def test_both_forms_begin_in_the_same_ranges(name: str) -> None:
    """Within +-1/sqrt(fan_in), and spread over it: nothing is left as memory happened to be."""
    shape = SHAPES[name]
    _, slots = compiled_plan(shape)
    for slot, tensor in zip(slots, QNetwork(shape).parameters(), strict=True):
        bound = slot.fan_in**-0.5
        values = tensor.detach().abs()
        assert float(values.max()) <= bound * (1 + 1e-6)
        assert slot.size < 50 or float(values.mean()) == pytest.approx(bound / 2, rel=0.3)
