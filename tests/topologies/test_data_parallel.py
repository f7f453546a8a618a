"""Data parallel: N learners with minibatches of B make the updates of one with minibatches of N * B."""

from typing import Any

import numpy as np
import pytest
import torch

from qfleet.assembly import Problem
from qfleet.deep.learner import Learner
from qfleet.deep.parameters import flat_values
from qfleet.deep.task import NetworkLearner, NetworkTask
from qfleet.experiment import make_settings
from qfleet.network_members import NetworkMembers
from qfleet.replay.replay import Batch
from qfleet.topologies.data_parallel import DataParallel, DataParallelConfig
from tests.backends.members import FLEETS

BLOCK, STEPS, SEED = 32, 960, 3
SETTINGS: dict[str, Any] = {
    "algorithm": "dqn",
    "num_envs": 4,
    "learning_starts_steps": 120,
    "updates_per_step": 0.25,
    "batch_size": 16,
    "hidden_sizes": (16,),
    "n_step": 2,
    "replay_capacity": 2000,
    "target_update_every_updates": 20,
    "exploration_initial": 1.0,
    "exploration_final": 1.0,
    "learning_rate": 1e-3,
}


def members(device: str) -> NetworkMembers:
    problem = Problem(make_settings("CartPole-v1", None, SETTINGS | {"device": device}), "CartPole-v1")
    return NetworkMembers(problem, problem.description())


def task_of(workers: int, device: str = "cpu") -> tuple[NetworkTask, np.ndarray]:
    own = members(device)
    initial = flat_values(own.make_learner(own.problem.settings.dqn, SEED).publish())
    dqn = own.problem.settings.dqn
    return NetworkTask(SEED, STEPS, workers, len(initial), own, dqn, BLOCK), initial


def together(workers: int, backend: str, device: str = "cpu") -> np.ndarray:
    task, initial = task_of(workers, device)
    fleet = FLEETS[backend]()
    try:
        team = DataParallel(fleet, task, DataParallelConfig(block_steps=BLOCK))
        team.set_values(initial[None, None])
        reports = team.advance(STEPS)
        expected = int((STEPS / workers - -(-120 // workers)) * 0.25)
        assert [report.extras["updates"] for report in reports] == [expected] + [0] * (workers - 1)
        return team.values()[0, 0].copy()
    finally:
        fleet.close()


def one_with_all_batches(workers: int) -> np.ndarray:
    """The same transitions and draws, learned from by one learner in minibatches that are put together."""
    task, initial = task_of(workers)
    gatherers, learner = [], task.members.make_learner(task.config, SEED)
    for rank in range(workers):
        gatherer = task.make_learner(rank, task.make_table(initial.reshape(1, 1, -1).copy()))
        gatherer.start()
        gatherers.append(gatherer)
    made = 0
    while made < STEPS:
        steps = min(BLOCK * workers, STEPS - made)
        for rank, gatherer in enumerate(gatherers):
            gatherer.gather(steps // workers + (rank < steps % workers))
        made += steps
        _learn_due(gatherers, learner, gatherers[0].config.updates_due(made // workers))
    return flat_values(learner.publish())


def _learn_due(gatherers: list[NetworkLearner], learner: Learner, due: int) -> None:
    while learner.num_updates < due:
        batches = []
        for gatherer in gatherers:
            gatherer.learner.num_updates = learner.num_updates  # which minibatch is drawn follows from it
            batches.append(gatherer.draw())
        learner.learn_batch(_joined(batches))


def _joined(batches: list[Batch]) -> Batch:
    halves = [np.split(batch.observations, 2) for batch in batches]
    seen = np.concatenate([half[0] for half in halves] + [half[1] for half in halves])
    names = [name for name in Batch._fields if name != "observations"]
    return Batch(
        observations=seen,
        **{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names},
    )


@pytest.mark.parametrize(("workers", "backend"), [(1, "threads"), (2, "threads"), (3, "processes")])
def test_many_learners_are_one_with_larger_minibatches(workers: int, backend: str) -> None:
    found, expected = together(workers, backend), one_with_all_batches(workers)
    _, initial = task_of(workers)
    moved = np.abs(expected - initial).max()
    assert moved > 1e-2
    np.testing.assert_allclose(found, expected, atol=2e-3 * moved)


@pytest.mark.parametrize("backend", ["threads", "processes", "ray"])
def test_gpus_add_their_gradients_as_workers_do(backend: str) -> None:
    """Processes, and Ray's, by NCCL; threads in main memory."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    found, expected = together(2, backend, "cuda"), one_with_all_batches(2)
    moved = np.abs(expected - task_of(2)[1]).max()
    np.testing.assert_allclose(found, expected, atol=1e-2 * moved)
