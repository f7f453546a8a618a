"""A minibatch that several learners share: the mean of what they make of its parts is what one makes of all of it."""

import numpy as np
import pytest

from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Gradient
from qfleet.deep.networks import NetworkShape
from qfleet.deep.shared_batches import mean_gradient, part_of
from qfleet.replay.replay import Batch
from tests.deep.networks import SHAPES, observations_for

SHAPE = SHAPES["mlp-dueling"]


def batch_of(shape: NetworkShape, num: int) -> Batch:
    random = np.random.default_rng(num)
    return Batch(
        rows=np.arange(num),
        observations=observations_for(shape, 2 * num),
        next_action_masks=np.empty((num, 0), np.bool_),
        actions=random.integers(0, shape.num_actions, num).astype(np.int32),
        rewards=random.normal(size=num).astype(np.float32),
        discounts=np.full(num, 0.9, np.float32),
        weights=random.uniform(0.1, 1, num).astype(np.float32),
    )


@pytest.mark.parametrize(("num", "num_parts"), [(16, 1), (16, 2), (16, 3), (7, 7), (5, 4)])
def test_the_parts_are_all_of_it_in_order(num: int, num_parts: int) -> None:
    batch = batch_of(SHAPE, num)
    parts = [part_of(batch, part, num_parts) for part in range(num_parts)]
    sizes = [len(part.actions) for part in parts]
    assert sum(sizes) == num and max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
    for name in set(Batch._fields) - {"observations"}:
        found = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(found, getattr(batch, name)), name
    for half in range(2):  # those acted on, and those that followed
        found = np.concatenate([np.split(part.observations, 2)[half] for part in parts])
        assert np.array_equal(found, np.split(batch.observations, 2)[half])


def test_a_part_can_be_written_to_where_the_batch_cannot() -> None:
    """What comes from another process is read-only, and kernels are compiled for what is not."""
    batch = batch_of(SHAPE, 6)
    for column in batch:
        column.flags.writeable = False
    for column in part_of(batch, 1, 2):
        assert column.flags.writeable and column.flags.c_contiguous


@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_the_mean_of_the_parts_is_the_gradient_of_the_whole(num_parts: int) -> None:
    learner = CompiledLearner(DQNConfig(batch_size=16), SHAPE, 0, 1)
    batch = batch_of(SHAPE, 16)
    whole = learner.gradient(batch)
    mean = mean_gradient(
        [learner.gradient(part_of(batch, part, num_parts)) for part in range(num_parts)],
    )
    scale = np.abs(whole.vector).max()
    np.testing.assert_allclose(mean.vector, whole.vector, rtol=1e-4, atol=1e-5 * scale)
    assert mean.loss == pytest.approx(whole.loss, rel=1e-5)
    np.testing.assert_allclose(mean.td_errors, whole.td_errors, rtol=1e-4, atol=1e-5)


def test_each_part_counts_for_its_size() -> None:
    parts = [
        Gradient(np.array([1.0, 8.0], np.float32), 4.0, np.ones(3, np.float32)),
        Gradient(np.array([5.0, 0.0], np.float32), 8.0, np.zeros(1, np.float32)),
    ]
    mean = mean_gradient(parts)
    assert mean.vector.dtype == np.float32 and mean.vector.tolist() == [2.0, 6.0] and mean.loss == 5.0
    assert mean.td_errors.tolist() == [1, 1, 1, 0]
    assert parts[0].vector.tolist() == [1.0, 8.0]
