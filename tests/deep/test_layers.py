"""The compiled network against autograd: the same flat parameters, the same values and gradients."""

import numpy as np
import pytest
import torch

from qfleet.deep.compiled.layers import backward, forward, make_scratch
from qfleet.deep.compiled.learn import Vectors, gradient_step
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkShape, compiled_plan
from qfleet.deep.parameters import initial_parameters
from qfleet.deep.torch_learner import FlatModule
from qfleet.replay.replay import Batch
from tests.deep.networks import SHAPES, observations_for

BATCH = 10


def torch_network(shape: NetworkShape, vector: np.ndarray) -> FlatModule:
    flat = FlatModule(QNetwork(shape), torch.device("cpu"))
    flat.vector.copy_(torch.from_numpy(vector))
    return flat


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """As near as float32 sums in another order are, relative to the largest number."""
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-6 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", SHAPES)
def test_forward_equals_pytorchs(name: str) -> None:
    shape = SHAPES[name]
    plan, slots = compiled_plan(shape)
    vector, observations = initial_parameters(slots, 1), observations_for(shape, BATCH)
    scratch = make_scratch(plan, BATCH + 3, shape.num_inputs)
    with torch.no_grad():
        expected = torch_network(shape, vector).module(torch.from_numpy(observations)).numpy()
    assert_close(forward(plan, vector, observations, scratch), expected)
    one = forward(plan, vector, observations[:1], scratch)  # room for more than there are
    assert_close(one, expected[:1])


@pytest.mark.parametrize("name", SHAPES)
def test_backward_equals_autograds(name: str) -> None:
    shape = SHAPES[name]
    plan, slots = compiled_plan(shape)
    vector, observations = initial_parameters(slots, 2), observations_for(shape, BATCH, 3)
    deltas = np.random.default_rng(4).normal(size=(BATCH, shape.num_actions)).astype(np.float32)
    scratch = make_scratch(plan, 2 * BATCH, shape.num_inputs)
    gradient = np.full(len(vector), np.nan, np.float32)
    forward(plan, vector, observations, scratch)
    backward(plan, vector, deltas, scratch, gradient)
    flat = torch_network(shape, vector)
    flat.module(torch.from_numpy(observations)).backward(torch.from_numpy(deltas))
    assert_close(gradient, flat.gradient.numpy())


def test_the_parameters_lie_in_both_forms_alike() -> None:
    for shape in SHAPES.values():
        _, slots = compiled_plan(shape)
        tensors = dict(QNetwork(shape).named_parameters())
        assert [slot.size for slot in slots] == [tensor.numel() for tensor in tensors.values()]
        assert all(
            slot.shape == tuple(tensor.shape) for slot, tensor in zip(slots, tensors.values(), strict=True)
        )


def minibatch(shape: NetworkShape, num_mask_actions: int) -> Batch:
    generator = np.random.default_rng(8)
    masks = generator.random((BATCH, num_mask_actions)) < 0.6
    if num_mask_actions:
        masks[:, 0] = True
        masks[0, 1:] = False
    discounts = np.where(np.arange(BATCH) % 4 == 1, 0, 0.97 ** (1 + np.arange(BATCH) % 3))
    return Batch(
        np.arange(BATCH),
        observations_for(shape, 2 * BATCH, 9),
        masks,
        generator.integers(0, shape.num_actions, BATCH).astype(np.int32),
        (3 * generator.normal(size=BATCH)).astype(np.float32),
        discounts.astype(np.float32),
        generator.uniform(0.1, 1, BATCH).astype(np.float32),
    )


def textbook_loss(
    shape: NetworkShape, batch: Batch, online: FlatModule, target: FlatModule, config: DQNConfig
):
    """The papers' loss in PyTorch's own words; returns (loss, TD errors)."""
    observations = torch.from_numpy(batch.observations)
    with torch.no_grad():
        next_values = target.module(observations[BATCH:])
        selecting = online.module(observations[BATCH:]) if config.double else next_values
        if batch.next_action_masks.shape[1]:
            selecting = selecting.masked_fill(~torch.from_numpy(batch.next_action_masks), -torch.inf)
        bootstrap = next_values.gather(1, selecting.argmax(1, keepdim=True))[:, 0]
        targets = torch.from_numpy(batch.rewards) + torch.from_numpy(batch.discounts) * bootstrap
    chosen = online.module(observations[:BATCH]).gather(1, torch.from_numpy(batch.actions).long()[:, None])[
        :, 0
    ]
    functional = torch.nn.functional
    each = (
        functional.huber_loss(chosen, targets, reduction="none")
        if config.loss == "huber"
        else functional.mse_loss(chosen, targets, reduction="none") / 2
    )
    return (torch.from_numpy(batch.weights) * each).mean(), (targets - chosen).detach().numpy()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ["mlp", "mlp-dueling", "grid-last", "grid-first-stacked-dueling"])
def test_one_gradient_step_is_the_papers(name: str, double: bool, loss, masked: bool) -> None:
    shape, config = SHAPES[name], DQNConfig(double=double, loss=loss)
    plan, slots = compiled_plan(shape)
    vectors = Vectors(initial_parameters(slots, 5), initial_parameters(slots, 6), np.empty(0), np.empty(0))
    batch = minibatch(shape, shape.num_actions if masked else 0)
    gradient = np.empty(len(vectors.parameters), np.float32)
    targets, errors = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    found = gradient_step(
        plan,
        config.rule(),
        vectors,
        batch,
        make_scratch(plan, BATCH, shape.num_inputs),
        gradient,
        targets,
        errors,
        np.empty((BATCH, shape.num_actions), np.float32),
    )
    online = torch_network(shape, vectors.parameters)
    expected, expected_errors = textbook_loss(
        shape, batch, online, torch_network(shape, vectors.target), config
    )
    expected.backward()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_close(errors, expected_errors)
    assert_close(gradient, online.gradient.numpy())
