"""Learners that add gradients where the networks live are one with larger minibatches; who has a GPU of its own."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qfleet.backends.mpi_launch import num_ranks
from qfleet.deep.learner import Learner
from qfleet.deep.learning_together import LearningTogether
from qfleet.deep.whereabouts import have_gpus_of_their_own, local_rank
from qfleet.errors import NonFiniteError
from qfleet.fleet import Group
from qfleet.replay.replay import Batch
from tests.backends.members import BACKENDS, Members
from tests.backends.mpiexec import ROOT
from tests.deep.split_learners import NETWORKS, unsplit
from tests.deep.test_learners import CONFIG, filled_replay

TOGETHER = replace(CONFIG, batch_size=24, max_gradient_norm=0.1, target_update_every_updates=3)
NUM_UPDATES, SECONDS = 7, 100.0
IS_MPI = num_ranks() is not None
GROUPS: list[Any] = [
    ("processes", 2),
    *(pytest.param(group, marks=pytest.mark.soak) for group in (("processes", 4), ("ray", 3))),
]


@pytest.fixture(scope="module", params=[("mpi", num_ranks())] if IS_MPI else GROUPS, ids=str)
def members(request: pytest.FixtureRequest) -> Iterator[Members]:
    group = Members(*request.param, timeout_seconds=200.0)
    yield group
    group.fleet.close()


def run(members: Members, function: Any, *arguments: Any) -> list[Any]:
    """With time enough to import PyTorch in every process of a busy machine."""
    futures = [handle.call("run", function, *arguments) for handle in members.handles]
    return [future.result(250) for future in futures]


def minibatches(learner: Learner, name: str) -> Iterator[Batch]:
    view = filled_replay(NETWORKS[name], TOGETHER).view()
    for number in range(NUM_UPDATES):
        learner.num_updates = number  # which minibatch is drawn follows from it
        yield Batch(*(part.copy() for part in learner.draw(view, 0.4)))


def part_of(batch: Batch, rank: int, size: int) -> Batch:
    """One rank's part of a minibatch; what was seen before and after is in halves."""
    before, after = (np.array_split(half, size)[rank] for half in np.split(batch.observations, 2))
    rest = {
        name: np.array_split(getattr(batch, name), size)[rank]
        for name in Batch._fields
        if name != "observations"
    }
    return Batch(observations=np.concatenate([before, after]), **rest)


def learn_parts(group: Group, name: str) -> dict[str, Any]:
    learner, drawing = unsplit(name, TOGETHER), unsplit(name, TOGETHER)
    together = LearningTogether(learner, group, SECONDS)
    try:
        errors = [
            together.learn(part_of(batch, group.rank, group.size)) for batch in minibatches(drawing, name)
        ]
    finally:
        together.close()
    return {
        "errors": errors,
        "updates": learner.num_updates,
        "statistics": learner.take_statistics(),
        "state": learner.save_state(),
    }


@pytest.mark.parametrize("name", ["dueling", "nature"])
def test_they_are_one_with_larger_minibatches(name: str, members: Members) -> None:
    one, drawing = unsplit(name, TOGETHER), unsplit(name, TOGETHER)
    start = one.publish().vector
    expected = np.array([one.learn_batch(batch) for batch in minibatches(drawing, name)])
    ranks = run(members, learn_parts, name)
    moved = np.abs(one.publish().vector - start).max()
    assert moved > 2e-3 and one.take_statistics()["train/gradient_norm"] > 2 * TOGETHER.max_gradient_norm
    np.testing.assert_allclose(
        np.concatenate([rank["errors"] for rank in ranks], axis=1), expected, atol=1e-5
    )
    for rank in ranks:
        assert rank["updates"] == NUM_UPDATES and rank["statistics"].keys() >= {"train/loss"}
        for what in ("parameters", "target", "moments"):
            assert rank["state"][what].tobytes() == ranks[0]["state"][what].tobytes()
            np.testing.assert_allclose(rank["state"][what], one.save_state()[what], atol=2e-3 * moved)


def _learn_from_infinity(group: Group) -> tuple[str, bool]:
    learner = unsplit("mlp", TOGETHER)
    together, before = LearningTogether(learner, group, SECONDS), learner.publish().vector
    batch = part_of(next(minibatches(unsplit("mlp", TOGETHER), "mlp")), group.rank, group.size)
    if group.rank == 1:
        batch.rewards[:] = np.inf
    try:
        with pytest.raises(NonFiniteError) as caught:
            together.learn(batch)
        return str(caught.value), bool((learner.publish().vector == before).all())
    finally:
        together.close()


def test_what_is_not_finite_in_one_is_refused_by_all(members: Members) -> None:
    answers = run(members, _learn_from_infinity)
    assert all("update 1 is not finite" in text and unchanged for text, unchanged in answers), answers


def _where(group: Group, gpus: list[str]) -> tuple[int, bool]:
    return local_rank(group), have_gpus_of_their_own(group, gpus[group.rank])


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_has_a_gpu_of_its_own(backend: str) -> None:
    """On this one machine; threads, which are one process, take part in no group of PyTorch's."""
    size = num_ranks() or 3
    group = Members(backend, size)
    try:
        names = [f"GPU-{rank}" for rank in range(size)]
        expected = backend != "threads"
        assert group.run(_where, names) == [(rank, expected) for rank in range(size)]
        for others in (["GPU-0"] * size, ["", *names[1:]], [""] * size):
            assert group.run(_where, others) == [(rank, False) for rank in range(size)]
    finally:
        group.fleet.close()


@pytest.mark.soak
@pytest.mark.skipif(IS_MPI, reason="starts it")
def test_ranks_of_mpi() -> None:
    from tests.backends.test_mpi import run_tests

    assert run_tests(2, ROOT / "tests" / "deep" / "test_learning_together.py") >= 4
