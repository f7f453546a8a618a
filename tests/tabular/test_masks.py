"""Masked actions are never taken, counted or bootstrapped from, whatever learns and however it is spread.

Their values are enormous: whoever looked at one of them would show it.
"""

from collections.abc import Callable

import numpy as np
import pytest

from qfleet.backends.threads import ThreadFleet
from qfleet.fleet import Fleet
from qfleet.tabular.cut import cut_blocks, cut_by_owners
from qfleet.tabular.exact import EpsilonGreedy
from qfleet.tabular.learner import Task
from qfleet.tabular.program import Rule
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.topologies.serial import TableSerial, TableSerialConfig
from qfleet.topologies.shared import Shared, SharedConfig
from qfleet.topologies.table_team import TableTopology
from tests.tabular.learning import AT_BORDERS, CONFIG, RULES, exact_solution, make_learner
from tests.tabular.small_worlds import bandit, masked_garnet

ENORMOUS = 2.0**20
STEPS = 200_000

TOPOLOGIES: dict[str, tuple[int, Callable[[Fleet, Task], TableTopology]]] = {
    "serial": (1, lambda fleet, task: TableSerial(fleet, task, TableSerialConfig())),
    "shared": (2, lambda fleet, task: Shared(fleet, task, SharedConfig(), True)),
    "averaged equal": (2, lambda fleet, task: Averaged(fleet, task, averaged("equal"))),
    "averaged delta": (2, lambda fleet, task: Averaged(fleet, task, averaged("delta"))),
    "averaged visits": (2, lambda fleet, task: Averaged(fleet, task, averaged("visits"))),
    "partitioned": (3, lambda fleet, task: Partitioned(fleet, task, cut_blocks(12, 3), PARTITIONED)),
    "partitioned by owners": (
        3,
        lambda fleet, task: Partitioned(fleet, task, cut_by_owners(np.arange(12) % 3, 3), PARTITIONED),
    ),
}
PARTITIONED = PartitionedConfig(sync_every_steps=500)


def averaged(merge: str) -> AveragedConfig:
    return AveragedConfig(sync_every_steps=500, merge=merge)  # pyright: ignore[reportArgumentType]


def cases() -> list:
    """All; kernels of borders, of the merge's weights and of orders of states take long to compile: most are soak."""
    compiled = {"averaged visits": ["q-learning"], "partitioned": AT_BORDERS, "partitioned by owners": []}
    return [
        pytest.param(
            topology, rule, marks=[] if rule in compiled.get(topology, RULES) else [pytest.mark.soak]
        )
        for rule in RULES
        for topology in TOPOLOGIES
    ]


@pytest.mark.parametrize(("topology", "rule"), cases())
def test_no_masked_action_is_taken_counted_or_bootstrapped_from(topology: str, rule: Rule):
    workers, make = TOPOLOGIES[topology]
    mdp = masked_garnet(3)
    assert mdp.allowed is not None
    task = Task(mdp.world(), rule, CONFIG, seed=2, total_steps=STEPS, num_workers=workers)
    masked = ~np.broadcast_to(mdp.allowed, task.shape)
    fleet = ThreadFleet()
    team = make(fleet, task)
    try:
        team.set_values(np.where(masked, ENORMOUS, 0.0))
        team.advance(STEPS)
        values, state = team.values().copy(), team.save_state()
    finally:
        team.close()
        fleet.close()
    assert (values[masked] == ENORMOUS).all()
    # The sum of two workers' changes overshoots while learning rates are large: there the size is all that is sure.
    policy = EpsilonGreedy(0.3) if "sarsa" in rule else "greedy"
    error = exact_solution(mdp, 0.9, policy).error(values.mean(axis=0))
    assert error < (100 if topology == "averaged delta" else 1.5)
    visits = [worker["learner"]["visits"] for worker in state["workers"].values()]
    if topology == "partitioned":
        visits = [np.concatenate(visits, axis=1)]
    if topology != "partitioned by owners":
        assert all((counts[masked] == 0).all() and counts.sum() > 0 for counts in visits)


@pytest.mark.parametrize("rule", RULES)
def test_a_single_action_left_is_always_taken(rule: Rule):
    only = np.array([False, False, True, False])
    mdp = bandit(np.array([ENORMOUS, ENORMOUS, 1.0, ENORMOUS]), only)
    initial = np.where(only, 0.0, ENORMOUS)[None, None].repeat(1 + (rule == "double-q-learning"), axis=0)
    learner = make_learner(mdp, rule, initial=initial)
    learner.advance(1000)
    assert (learner.table.visits[..., ~only] == 0).all()
    still_open = learner.history.length.sum() if rule == "tree-backup" else 0
    assert learner.table.visits.sum() == 1000 - still_open
    assert (learner.table.values[..., ~only] == ENORMOUS).all()
    assert (learner.table.values[..., 2] <= 10.0 + 1e-9).all()
