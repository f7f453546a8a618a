"""Which layers are split, which stay whole, and what is said where there is nothing to split."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from qfleet.deep.layer_pairs import find_cuts
from qfleet.deep.networks import NetworkConfig, decide
from qfleet.deep.split import Split, SplitTensor, cut_state, join_states
from qfleet.deep.tensor_parallel import network_without_values
from qfleet.environments.vector import ObservationLayout
from qfleet.errors import QfleetError
from tests.deep.networks import VECTOR

IMAGE = ObservationLayout((36, 36, 1), np.dtype(np.uint8), is_image=True, channels_last=True)


def _chain(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_of_overlapping_pairs_those_are_taken_that_split_most() -> None:
    assert find_cuts(_chain(4, 64, 64, 2), 2) == {"0": "outputs", "2": "inputs"}
    assert find_cuts(_chain(2, 64, 64, 4), 2) == {"2": "outputs", "4": "inputs"}
    four = find_cuts(_chain(4, 64, 64, 64, 2), 2)
    assert four == {"0": "outputs", "2": "inputs", "4": "outputs", "6": "inputs"}
    # The pair in the middle is worth more than both others together.
    middle = find_cuts(_chain(4, 8, 999_999, 8, 2), 3)
    assert middle == {"2": "outputs", "4": "inputs"}


def test_a_layer_that_cannot_be_shared_out_evenly_stays_whole() -> None:
    assert find_cuts(_chain(4, 9, 64, 64, 2), 4) == {"2": "outputs", "4": "inputs"}


@pytest.mark.parametrize(
    ("config", "layout", "cuts"),
    [
        (NetworkConfig(hidden_sizes=(8, 8)), VECTOR, {"hidden.0": "outputs", "hidden.1": "inputs"}),
        (NetworkConfig(network="nature"), IMAGE, {"hidden.0": "outputs", "values": "inputs"}),
        (
            NetworkConfig(network="nature", dueling=True),
            IMAGE,
            {
                "state_hidden": "outputs",
                "state_value": "inputs",
                "advantage_hidden": "outputs",
                "advantages": "inputs",
            },
        ),
    ],
)
def test_our_networks(config: NetworkConfig, layout: ObservationLayout, cuts: dict[str, str]) -> None:
    module = network_without_values(decide(config, layout, 1, 3))
    assert all(parameter.is_meta for parameter in module.parameters())
    assert find_cuts(module, 2) == cuts


class Owning(nn.Module):
    """A module of a user's: what it does with its Sequential is one call of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.normed, self.net = nn.LayerNorm(4), nn.Sequential(*layers)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(self.normed(observations))


def test_a_users_sequential_is_found_inside_and_other_layers_end_a_pair() -> None:
    found = find_cuts(Owning(nn.Linear(4, 8), nn.SiLU(), nn.Sequential(nn.Linear(8, 2))), 2)
    assert found == {"net.0": "outputs", "net.2.0": "inputs"}
    between = [nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    assert find_cuts(Owning(*between), 2) == {"net.2": "outputs", "net.4": "inputs"}


def _tied() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def _frozen() -> nn.Module:
    network = _chain(4, 8, 2)
    network[0].requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_chain(4, 9, 2), "the 9 units of 0 cannot be shared out evenly"),
        (nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 2)), "no two nn.Linear in one nn.Seq"),
        (nn.Linear(4, 2), "no two nn.Linear in one nn.Sequential with nothing but element-wise"),
        (_tied(), "0 shares a weight with another layer"),
        (_frozen(), "0 is not trained"),
    ],
)
def test_a_network_that_cannot_be_split_is_refused_with_every_layers_reason(
    module: nn.Module, words: str
) -> None:
    with pytest.raises(QfleetError, match=f"cannot be split over 2 workers: .*{words}") as caught:
        find_cuts(module, 2)
    assert "\n" not in str(caught.value)


SPLIT = Split(
    (
        SplitTensor("a", (4, 3), 0),
        SplitTensor("b", (4,), 0),
        SplitTensor("c", (2, 4), 1),
        SplitTensor("d", (2,), None),
    ),
    2,
)


def test_cutting_and_joining_are_each_others_reverse() -> None:
    whole = np.arange(SPLIT.num_parameters, dtype=np.float32)
    parts = [SPLIT.cut(whole, rank) for rank in range(2)]
    assert [len(part) for part in parts] == [SPLIT.num_own_parameters] * 2 == [14, 14]
    np.testing.assert_array_equal(parts[1][:8], [6, 7, 8, 9, 10, 11, 14, 15])
    np.testing.assert_array_equal(parts[1][8:], [18, 19, 22, 23, 24, 25])
    np.testing.assert_array_equal(SPLIT.join(parts), whole)


def test_states_go_through_another_number_of_ranks() -> None:
    generator = np.random.default_rng(0)
    vectors = {name: generator.normal(size=26).astype(np.float32) for name in ("parameters", "target")}
    state = vectors | {"moments": generator.normal(size=(2, 26)).astype(np.float32), "buffers": {"mean": 1}}
    for num_parts in (1, 2, 4):
        split = Split(SPLIT.tensors, num_parts)
        joined = join_states(split, [cut_state(split, state, rank) for rank in range(num_parts)])
        assert joined.keys() == state.keys() and joined["buffers"] == {"mean": 1}
        for name in ("parameters", "target", "moments"):
            np.testing.assert_array_equal(joined[name], state[name])


def test_values_of_another_network_are_refused() -> None:
    with pytest.raises(QfleetError, match="25 parameters, this network has 26"):
        SPLIT.cut(np.zeros(25, np.float32), 0)
