"""Partitioned: the exact fixed point under every rule and cut, and the order in which walkers and values travel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from qfleet.fleet import Group
from qfleet.tabular.cut import Cut, cut_blocks, cut_by_owners, owners_by_graph
from qfleet.tabular.exact import EpsilonGreedy
from qfleet.tabular.learner import Task
from qfleet.tabular.records import NO_ACTION
from qfleet.topologies.partitioned import PartitionedConfig, PartitionedWorker
from qfleet.worlds.mdp import MDP
from tests.topologies.conftest import MembersOf
from tests.topologies.table_teams import (
    FALLING,
    RULES,
    learn_in,
    make_worker,
    run,
    table_of,
    task_of,
    world_named,
)

GRID, GARNET = world_named("GridWorld-16"), world_named("Garnet-60")
UNMAPPED = replace(GRID, successors=None)
"""Its border is not known before it is met."""
EXACT_EPSILON = {"exploration_initial": 0.3, "exploration_final": 0.3, "walkers": 512}
"""And so many walkers that rounds are not over as soon as they begin, where every step crosses a border."""
EVERYWHERE = {"exploration_initial": 1.0, "exploration_final": 1.0}


def uneven_mdp() -> MDP:
    """Sixty states, of which those with small numbers are visited more often; five next states a pair, as GARNET."""
    random = np.random.default_rng(4)
    rows, columns = np.repeat(np.arange(240), 5), np.empty((240, 5), int)
    for row in columns:
        row[:] = random.choice(60, 5, replace=False, p=np.linspace(9, 1, 60) / 300)
    chances = random.dirichlet(np.ones(5), 240).ravel()
    transitions = sparse.csr_matrix((chances, (rows, columns.ravel())), shape=(240, 60))
    return MDP.from_arrays(transitions, random.random((60, 4)), max_episode_steps=1000, name="Uneven")


UNEVEN = uneven_mdp().world()


def exact_of(task: Task) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The fixed point, and what of it can be reached."""
    assert task.world.mdp is not None
    mdp = task.world.mdp()
    on_policy = task.rule in ("sarsa", "expected-sarsa")
    values = mdp.fixed_point(task.config.discount, EpsilonGreedy(0.3) if on_policy else "greedy")
    return values, np.isfinite(values) & mdp.reachable()[:, None]


def error_of(task: Task, table: NDArray[Any]) -> float:
    values, counted = exact_of(task)
    return float(np.abs(table.mean(axis=0) - values)[counted].max())


def run_to_the_end(
    members_of: MembersOf, task: Task, config: PartitionedConfig, cut: Cut | None = None
) -> tuple[NDArray[Any], list[Any]]:
    learned = run(members_of("threads", task.num_workers), learn_in, task, config, (), cut)
    assert {one.num_steps for one in learned} == {task.total_steps}
    assert sum(one.advance.steps for one in learned) == task.total_steps
    return table_of(learned, cut), learned


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_every_rule_converges_where_all_is_random(rule, workers: int, members_of: MembersOf) -> None:
    task = task_of(GARNET, rule, 3_000_003, workers, **EXACT_EPSILON)
    table, _ = run_to_the_end(members_of, task, PartitionedConfig(sync_every_steps=5000))
    assert error_of(task, table) < 0.05


def test_an_episode_cut_off_at_the_border_is_bootstrapped_from_where_it_was(members_of: MembersOf) -> None:
    """Episodes of two steps end mostly there; SARSA, which waits, must not take values of the next episode."""
    short = replace(UNEVEN, max_episode_steps=2)
    task = task_of(short, "sarsa", 3_000_003, 3, **EXACT_EPSILON)
    table, _ = run_to_the_end(members_of, task, PartitionedConfig(sync_every_steps=5000))
    assert error_of(task, table) < 0.05


@pytest.mark.parametrize(
    "rule", ["q-learning", *(pytest.param(rule, marks=pytest.mark.soak) for rule in RULES[1:])]
)
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_every_rule_converges_on_a_grid(rule, workers: int, members_of: MembersOf) -> None:
    """A border that has to be met. Without chance and policy the values are exact."""
    on_policy = rule.endswith("sarsa")
    explored = EXACT_EPSILON if on_policy else EVERYWHERE
    task = task_of(UNMAPPED, rule, 6_000_001, workers, **explored | {"walkers": 48})
    table, _ = run_to_the_end(members_of, task, PartitionedConfig(sync_every_steps=5000))
    assert error_of(task, table) < (0.35 if on_policy else 1e-6)


def test_any_cut_converges_and_the_graphs_has_the_smaller_border(members_of: MembersOf) -> None:
    mdp = world_named("GridWorld-16", slip="0.2").mdp
    assert mdp is not None
    random = np.random.default_rng(5).integers(0, 3, 256)
    by_graph = owners_by_graph(*mdp().graph(), 3)
    sent = {}
    for name, owners in (("random", random), ("graph", by_graph)):
        cut = cut_by_owners(owners, 3)
        task = task_of(mdp().world(), "q-learning", 2_000_000, 3, **EVERYWHERE, **FALLING)
        table, learned = run_to_the_end(
            members_of, task, PartitionedConfig(sync_every_steps=5000, balance="none"), cut
        )
        assert error_of(task, table) < 0.1
        sent[name] = sum(one.extras["sent_bytes_per_round"] for one in learned)
    assert sent["graph"] < 0.7 * sent["random"]


def halo_of(group: Group, task: Task, cut: Cut, rounds: int) -> tuple[Any, Any]:
    """The states across the border that a worker knows, and which of its own it tells to whom."""
    config = PartitionedConfig(sync_every_steps=5000, balance="none")
    worker, _ = make_worker(group, task, config, cut)
    assert isinstance(worker, PartitionedWorker)
    worker.start()
    if rounds:
        worker.advance(rounds * 5000 * group.size, None)
    state = worker.save_state()["border"]
    return np.sort(state["keys"][state["keys"] >= 0]), {
        int(k): np.sort(v) for k, v in state["exported"].items()
    }


def check_halo(found: Sequence[Any], cut: Cut, mdp: MDP) -> None:
    for rank, (known, _) in enumerate(found):
        near = mdp.successors(cut.states(rank))
        np.testing.assert_array_equal(known, np.sort(near[cut.owners(near) != rank]))
        for other in range(cut.num_workers):
            asked = known[cut.owners(known) == other]
            np.testing.assert_array_equal(asked, found[other][1][rank])


def test_the_halo_is_known_from_the_graph_before_the_first_step(members_of: MembersOf) -> None:
    task, cut = task_of(GARNET, "q-learning", 10**6, 3), cut_blocks(60, 3)
    found = run(members_of("threads", 3), halo_of, task, cut, 0)
    assert GARNET.mdp is not None and sum(len(known) for known, _ in found) > 60
    check_halo(found, cut, GARNET.mdp())


def told_at_the_start(group: Group, task: Task, cut: Cut, values: NDArray[Any]) -> dict[int, float]:
    worker, _ = make_worker(group, task, PartitionedConfig(), cut)
    assert isinstance(worker, PartitionedWorker)
    worker.set_rows(list(cut.bounds), values[:, cut.states(group.rank)])
    worker.start()
    border = worker.save_state()["border"]
    return dict(zip(border["keys"].tolist(), border["told"][:, 0].tolist(), strict=True))


def test_values_that_a_run_begins_from_are_known_across_borders(members_of: MembersOf) -> None:
    task, cut = task_of(GARNET, "q-learning", 10**6, 3), cut_blocks(60, 3)
    values = np.random.default_rng(8).normal(size=task.shape)
    for told in run(members_of("threads", 3), told_at_the_start, task, cut, values):
        del told[-1]
        assert len(told) > 20 and all(told[state] == values[0, state].max() for state in told)


def test_the_halo_of_functions_is_met_and_holds_the_border_alone(members_of: MembersOf) -> None:
    task, cut = task_of(UNMAPPED, "q-learning", 10**6, 3, **EVERYWHERE), cut_blocks(256, 3)
    begun = run(members_of("threads", 3), halo_of, task, cut, 0)
    assert all(known.size == 0 for known, _ in begun)
    assert GRID.mdp is not None
    check_halo(run(members_of("threads", 3), halo_of, task, cut, 20), cut, GRID.mdp())


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_cut_moves_to_where_visits_are_even(workers: int, members_of: MembersOf) -> None:
    task, config = (
        task_of(UNEVEN, "q-learning", 3_000_000, workers, **EXACT_EPSILON),
        PartitionedConfig(sync_every_steps=5000),
    )
    table, learned = run_to_the_end(members_of, task, config)
    extras = learned[0].extras
    assert extras["imbalance_before"] > 1.3 and extras["imbalance_after"] < 1.15
    assert learned[0].bounds != cut_blocks(60, workers).bounds
    assert [int(one.extras["num_rows"]) for one in learned] == np.diff(learned[0].bounds).tolist()
    assert error_of(task, table) < 0.05
    assert all(one.extras["imbalance_before"] == extras["imbalance_before"] for one in learned)


@pytest.mark.parametrize(
    "fixed", [PartitionedConfig(5000, balance="none"), PartitionedConfig(5000, "owners", "any.npy")]
)
def test_a_cut_that_was_asked_for_never_moves(fixed: PartitionedConfig, members_of: MembersOf) -> None:
    task = task_of(UNEVEN, "q-learning", 1_000_000, 2, **EXACT_EPSILON)
    _, learned = run_to_the_end(members_of, task, fixed, cut_blocks(60, 2))
    assert learned[0].bounds == (0, 30, 60)
    assert learned[0].extras["imbalance_before"] > 1.3 and learned[0].extras["imbalance_after"] > 1.3


def residents_by_round(group: Group, task: Task, config: PartitionedConfig) -> list[Any]:
    """After every round: who is here, in which states, and the bounds."""
    worker, _ = make_worker(group, task, config)
    assert isinstance(worker, PartitionedWorker)
    worker.start()
    seen = []
    while worker.num_steps < task.total_steps:
        worker.advance(worker.num_steps + 1, None)
        state = worker.save_state()["learner"]
        here = state["residents"].copy()
        assert (state["walkers"]["action"][here] != NO_ACTION).all()
        seen.append((here, state["walkers"]["state"][here].copy(), worker.bounds(), worker.num_steps))
    return seen


@pytest.mark.parametrize(
    ("world", "rule"), [("uneven", "sarsa"), ("uneven", "tree-backup"), ("grid", "q-learning")]
)
def test_no_walker_is_lost_or_doubled(world, rule, members_of: MembersOf) -> None:
    task = task_of(UNEVEN if world == "uneven" else GRID, rule, 100_003, 3)
    by_worker = run(
        members_of("threads", 3), residents_by_round, task, PartitionedConfig(sync_every_steps=500)
    )
    assert len(by_worker[0]) > 60
    for parts in zip(*by_worker, strict=True):
        everybody = np.concatenate([here for here, *_ in parts])
        np.testing.assert_array_equal(np.sort(everybody), np.arange(task.num_walkers))
        bounds = parts[0][2]
        for rank, (here, states, own_bounds, steps) in enumerate(parts):
            assert own_bounds == bounds and steps == parts[0][3]
            assert (np.diff(here) > 0).all()
            assert ((bounds[rank] <= states) & (states < bounds[rank + 1])).all()


@pytest.mark.parametrize("case", ["more workers than states", "a worker without rows"])
def test_workers_without_rows_do_no_harm(case: str, members_of: MembersOf) -> None:
    workers = 4 if case.startswith("more") else 3
    mdp = MDP.from_arrays(np.array([[1, 0], [2, 0], [0, 0]]), np.array([[0.0, 0.1], [0.0, 0.0], [1.0, 0.0]]))
    cut = cut_blocks(3, workers) if workers == 4 else cut_by_owners(np.array([0, 2, 0]), 3)
    task = task_of(mdp.world(), "q-learning", 400_001, workers, **EXACT_EPSILON)
    table, learned = run_to_the_end(
        members_of, task, PartitionedConfig(sync_every_steps=100, balance="none"), cut
    )
    assert 0 in [one.values.shape[1] for one in learned]
    assert error_of(task, table) < 1e-2
