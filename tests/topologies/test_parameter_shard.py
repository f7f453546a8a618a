"""A parameter server's shard, by tables computed by hand and against a local Adam."""

import itertools

import numpy as np
import pytest

from qfleet.deep.optimizer import adam, global_norm
from qfleet.topologies.parameter_shard import ParameterShard, PushedGradient
from qfleet.topologies.step_rules import AdamRule

RULE = AdamRule(0, 1000, learning_rate=0.1, adam_epsilon=1e-8, max_gradient_norm=10.0)
WORKER, OTHER = (0, 0), (1, 0)


def pushed(
    values, number: int, version: int, worker: tuple[int, int] = WORKER, norm: float | None = None
) -> PushedGradient:
    array = np.array(values, np.float32)
    norms = (float(global_norm(array)) if norm is None else norm,)
    return PushedGradient(worker, number, version, array, norms)


def shard_of(values, max_staleness: int = 100, rule: AdamRule = RULE) -> ParameterShard:
    return ParameterShard(np.array(values, np.float32), 0, (rule,), max_staleness)


def test_the_first_step_of_adam_by_hand() -> None:
    """m/(1 - b1) = g and sqrt(v/(1 - b2)) = |g|: each parameter moves by the learning rate against the sign."""
    shard = shard_of([1.0, 2.0, 3.0])
    answer = shard.push(pushed([0.5, -4.0, 0.0], number=1, version=0))
    assert answer.values.tolist() == pytest.approx([0.9, 2.1, 3.0], abs=1e-6)
    assert (answer.report.version, answer.report.num_dropped, answer.report.staleness) == (1, 0, 0)


def test_no_gradient_is_applied_twice() -> None:
    """(worker, number) -> version after it; numbers of different workers, and of replaced ones, are their own."""
    shard = shard_of([1.0])
    table = [
        (WORKER, 1, 1),
        (WORKER, 1, 1),  # again
        (WORKER, 2, 2),
        (OTHER, 1, 3),
        (WORKER, 1, 3),  # late, and again
        (OTHER, 1, 3),
        ((0, 1), 1, 4),  # the one in the first worker's place
        (WORKER, 4, 5),  # its third was lost
        (WORKER, 3, 5),
    ]
    for worker, number, version in table:
        answer = shard.push(pushed([1.0], number, version=shard.pull().report.version, worker=worker))
        assert answer.report.version == version, (worker, number)
        assert answer.report.num_dropped == 0


def test_a_repeated_gradient_changes_no_bit() -> None:
    shard = shard_of([1.0, 2.0])
    first = shard.push(pushed([0.3, 0.4], 1, 0)).values
    assert shard.push(pushed([0.3, 0.4], 1, 0)).values.tobytes() == first.tobytes()
    assert shard.push(None).values.tobytes() == shard.pull().values.tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("computed_with", "version", "dropped"), [(5, 6, 0), (3, 6, 0), (2, 5, 1), (0, 5, 1)]
)
def test_what_is_staler_than_the_bound_is_dropped_and_counted(
    computed_with: int, version: int, dropped: int
) -> None:
    shard = shard_of([1.0], max_staleness=2)
    for number in range(1, 6):
        shard.push(pushed([1.0], number, version=number - 1))
    before = shard.pull().values
    answer = shard.push(pushed([1.0], 1, version=computed_with, worker=OTHER))
    assert (answer.report.version, answer.report.num_dropped) == (version, dropped)
    assert answer.report.staleness == 5 - computed_with
    assert (answer.values.tobytes() == before.tobytes()) is bool(dropped)
    again = shard.push(pushed([1.0], 1, version=5, worker=OTHER))
    assert (again.report.version, again.report.num_dropped) == (version, dropped)


def local_adam(parameters: np.ndarray, gradients: list[np.ndarray], max_norm: float) -> np.ndarray:
    values, first, second = parameters.copy(), np.zeros_like(parameters), np.zeros_like(parameters)
    for number, gradient in enumerate(gradients, start=1):
        adam(values, gradient, first, second, number, RULE.learning_rate, RULE.adam_epsilon, max_norm)
    return values


@pytest.mark.parametrize("cuts", [[0, 12], [0, 5, 12], [0, 1, 7, 12]])
@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_shards_together_are_a_local_adam(cuts: list[int], scale: float) -> None:
    """Also where gradients are clipped: by the norm of the whole, which is above 10 at the larger scale."""
    random = np.random.default_rng(3)
    start = random.normal(size=12).astype(np.float32)
    gradients = [scale * random.normal(size=12).astype(np.float32) for _ in range(20)]
    slices = [slice(first, last) for first, last in itertools.pairwise(cuts)]
    shards = [shard_of(start[part]) for part in slices]
    for number, gradient in enumerate(gradients, start=1):
        norm = float(global_norm(gradient))
        assert (norm > RULE.max_gradient_norm) is (scale > 1)
        for shard, part in zip(shards, slices, strict=True):
            shard.push(pushed(gradient[part], number, number - 1, norm=norm))
    together = np.concatenate([shard.pull().values for shard in shards])
    expected = local_adam(start, gradients, RULE.max_gradient_norm)
    np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-6)


def test_a_shard_goes_on_from_its_state_with_the_same_bits() -> None:
    first, second = shard_of([1.0, 2.0], max_staleness=1), shard_of([0.0, 0.0], max_staleness=1)
    for number in range(1, 4):
        first.push(pushed([0.5, -1.0], number, number - 1))
    first.push(pushed([1.0, 1.0], 1, 0, OTHER))
    second.load_state(first.save_state())
    answers = [shard.push(pushed([0.2, 0.2], 4, 3)) for shard in (first, second)]
    assert answers[0].values.tobytes() == answers[1].values.tobytes()
    assert answers[0].report == answers[1].report and answers[1].report.num_dropped == 1


def test_what_is_pulled_and_saved_is_a_copy() -> None:
    shard = shard_of([1.0])
    pulled, state = shard.pull().values, shard.save_state()
    shard.push(pushed([1.0], 1, 0))
    assert pulled.tolist() == [1.0] and state["parameters"].tolist() == [1.0] and state["version"] == 0
