"""Shared: one memory, that all workers write to; it converges, and says what may have been lost."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qfleet.tabular.learner import Task
from qfleet.topologies.shared import Shared, SharedConfig
from tests.backends.members import FLEETS
from tests.topologies.table_teams import task_of, world_named

NUM_ADVANCES = 100
"""Each looks once at where the walkers are."""
GRID, GARNET = world_named("GridWorld-16"), world_named("Garnet-60")


def trained(
    task: Task, backend: str, config: SharedConfig | None = None
) -> tuple[NDArray[np.float64], float]:
    """The table, and the fraction of updates that is said to be lost."""
    fleet = FLEETS[backend]()
    try:
        team = Shared(fleet, task, SharedConfig() if config is None else config, task.counts_visits)
        cut = task.total_steps * np.arange(1, NUM_ADVANCES + 1) // NUM_ADVANCES
        advances = [team.advance(int(until)) for until in cut]
        assert [sum(one.advance.steps for one in column) for column in zip(*advances, strict=True)] == [
            task.total_steps // task.num_workers + (rank < task.total_steps % task.num_workers)
            for rank in range(task.num_workers)
        ]
        assert team.num_steps == task.total_steps
        return team.values()[0].copy(), float(
            np.mean([one.extras["lost_update_fraction"] for one in advances[-1]])
        )
    finally:
        fleet.close()


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_two_workers_learn_one_table(backend: str) -> None:
    """On a grid without chance the fixed point is exact, whoever writes when."""
    task = task_of(GRID, "q-learning", 4_000_001, 2)
    table, lost = trained(task, backend)
    assert GRID.mdp is not None
    mdp = GRID.mdp()
    counted = np.repeat(mdp.reachable()[:, None], 4, axis=1)
    assert np.abs(table - mdp.solve(0.8))[counted].max() < 1e-6
    assert 0 < lost < 0.05  # 1024 pairs, none of which is visited by chance alone more than 50 times as often


def test_more_workers_and_fewer_pairs_lose_more() -> None:
    small = world_named("GridWorld-2")
    lost = {
        (name, workers): trained(task_of(world, "q-learning", 40_000, workers), "threads")[1]
        for name, world in (("small", small), ("large", GRID))
        for workers in (1, 2, 4)
    }
    assert lost["small", 1] == lost["large", 1] == 0
    assert lost["small", 2] > 10 * lost["large", 2] > 0
    assert lost["small", 4] > 2 * lost["small", 2] and lost["small", 4] <= 1


def test_what_one_process_writes_all_have() -> None:
    """Worker 1 alone walks from values of the driver's; the driver and worker 0 see its updates where they are."""
    task = task_of(GARNET, "q-learning", 1_000_000, 2)
    fleet = FLEETS["processes"]()
    try:
        team = Shared(fleet, task, SharedConfig(), task.counts_visits)
        team.set_values(np.full(task.shape, 3.25))
        team.prepare()
        before = team.values().copy()
        assert (before == 3.25).all()
        walked = team._one(1, "advance", 2000, None).advance.steps
        assert walked == 1000 and 0 < (team.values() != 3.25).sum() <= 1000
        state = [team._one(rank, "save_state")["learner"] for rank in range(2)]
        assert state[0]["visits"].sum() == 1000, "worker 0 counts in the same memory"
        assert state[0]["visits"].tobytes() == state[1]["visits"].tobytes()
        assert ((state[0]["visits"] > 0) >= (team.values() != 3.25)).all()
    finally:
        fleet.close()


def test_rounds_watch_the_largest_change() -> None:
    """Rounds are whole, wherever the driver stops; with the falling rates of few visits, values come to rest."""
    fleet = FLEETS["threads"]()
    task = task_of(GARNET, "q-learning", 10**7, 2, learning_rate_exponent=1.0)
    try:
        team = Shared(fleet, task, SharedConfig(block_steps=700), task.counts_visits)
        first = team.advance(1000, 1e-9)
        assert team.num_steps == 1400 and first[0].rounds == 1 and first[0].largest_change is not None
        last = team.advance(10**7, 1e-2)
        change = last[0].largest_change
        assert change is not None and change == last[1].largest_change and change <= 1e-2
        assert team.num_steps < 10**7
        assert team.num_steps % 1400 == 0 and last[0].rounds == (team.num_steps - 1400) // 1400
    finally:
        fleet.close()
