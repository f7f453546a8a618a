"""Several threads that make each update together, against one."""

from dataclasses import replace

import numpy as np
import pytest

from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.replay.replay import Batch
from tests.deep.networks import SHAPES
from tests.deep.test_learners import CONFIG, make_learner, stacked_batches

UNIFORM = replace(CONFIG, priority_exponent=0.0)


def threaded(shape_name: str, num_threads: int) -> CompiledLearner:
    learner = CompiledLearner(UNIFORM, SHAPES[shape_name], 0, 5)
    learner.use_threads(num_threads)
    return learner


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("shape_name", ["mlp-dueling", "grid-last-stacked-dueling"])
def test_they_make_the_updates_of_one(shape_name: str, num_threads: int) -> None:
    """Up to the order of sums; three threads have parts of unequal lengths. The same bits every time."""
    batches = stacked_batches(SHAPES[shape_name], UNIFORM, 16)
    alone, together, again = (threaded(shape_name, num) for num in (1, num_threads, num_threads))
    expected = alone.learn_batches(batches)
    errors = together.learn_batches(batches)
    np.testing.assert_allclose(errors, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_array_equal(again.learn_batches(batches), errors)
    np.testing.assert_array_equal(again.publish().vector, together.publish().vector)
    np.testing.assert_allclose(together.publish().vector, alone.publish().vector, atol=2e-3)
    assert together.num_updates == 16
    assert together.take_statistics() == pytest.approx(alone.take_statistics(), rel=1e-2)
    target, expected_target = together.save_state()["target"], alone.save_state()["target"]
    np.testing.assert_allclose(target, expected_target, atol=2e-3)


def test_one_gradient_is_that_of_one_thread() -> None:
    """A single step of Adam from zero moments tells a gradient's sign and, through the moments, its size."""
    batches = stacked_batches(SHAPES["mlp-dueling"], UNIFORM, 1)
    alone, together = threaded("mlp-dueling", 1), threaded("mlp-dueling", 3)
    for learner in (alone, together):
        learner.learn_batches(batches)
    for name in ("first_moment", "second_moment"):
        expected = alone.save_state()[name]
        np.testing.assert_allclose(together.save_state()[name], expected, rtol=1e-3, atol=1e-8)


def test_what_is_not_finite_ends_them_all() -> None:
    batches = stacked_batches(SHAPES["mlp-dueling"], UNIFORM, 5)
    learner, sound = threaded("mlp-dueling", 2), threaded("mlp-dueling", 2)
    sound.learn_batches(Batch(*(part[:2] for part in batches)))
    batches.rewards[2, 12] = np.nan
    with pytest.raises(NonFiniteError, match="update 3 is not finite"):
        learner.learn_batches(batches)
    assert learner.num_updates == 2
    np.testing.assert_array_equal(learner.publish().vector, sound.publish().vector)
    learner.learn_batches(Batch(*(part[3:] for part in batches)))
    assert learner.num_updates == 4


@pytest.mark.parametrize(
    ("kind", "num_threads", "said"),
    [
        ("compiled", 0, "0 threads cannot share a minibatch of 16"),
        ("compiled", 17, "17 threads cannot share"),
        ("torch", 2, "2 threads of a learner are for compiled networks"),
    ],
)
def test_numbers_of_threads_that_cannot_be_are_refused(kind: str, num_threads: int, said: str) -> None:
    with pytest.raises(QfleetError, match=said):
        make_learner(kind, UNIFORM).use_threads(num_threads)
