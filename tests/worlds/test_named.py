"""The worlds that have names: what their steps do, and that their arrays say the same."""

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from qfleet.worlds.catalogue import make_world
from qfleet.worlds.garnet import distinct
from qfleet.worlds.grid import free_cells
from qfleet.worlds.world import World
from tests.worlds.driving import frequencies, learned

DRAWS = 1000


def made(name: str, **options: object) -> World:
    world = make_world(name, {key: str(value) for key, value in options.items()})
    assert world is not None
    return world


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("GridWorld-4", {}),
        ("GridWorld-3x5", {"slip": 0.3, "walls": 0.3, "seed": 2}),
        ("GridWorld-1x4", {"slip": 1, "start": "first"}),
        ("Chain-6", {"slip": 0.2, "left_reward": 0.05}),
        ("Queue-4", {"arrival": 0.3, "service": 0.5, "speeds": 4, "energy": 0.7}),
        ("Inventory-5", {"demand": 1.7, "price": 3.5}),
    ],
)
def test_the_arrays_and_the_jitted_functions_are_the_same_world(name: str, options: dict) -> None:
    world = made(name, **options)
    assert world.mdp is not None
    mdp = pickle.loads(pickle.dumps(world.mdp))()  # noqa: S301  (our own bytes)
    ours, theirs = frequencies(world, DRAWS), frequencies(mdp.world(), DRAWS)
    counted = np.ones((world.num_states, world.num_actions), np.bool_)
    if name.startswith(("Grid", "Chain")):
        counted[-1] = False  # the end: no step is made from there
    if mdp.allowed is not None:
        assert world.allowed is not None
        for state, action in np.ndindex(counted.shape):
            counted[state, action] = world.allowed(world.parameters, state, action)
        assert np.array_equal(counted, mdp.allowed)
    assert np.abs(ours.reset - theirs.reset).max() < 3 / DRAWS
    assert np.abs(ours.next_state - theirs.next_state)[counted].max() < 3 / DRAWS
    assert np.abs(ours.reward - theirs.reward)[counted].max() < 0.02 * max(1, np.abs(theirs.reward).max())
    assert np.abs(ours.terminated - theirs.terminated)[counted].max() < 3 / DRAWS
    assert (mdp.name, mdp.max_episode_steps) == (world.name, world.max_episode_steps)


def test_gridworld_4_is_the_classic_one() -> None:
    world = made("GridWorld-4")
    assert (world.num_states, world.num_actions, world.grid_shape) == (16, 4, (4, 4))
    up, down, left, right = range(4)
    for state, action, expected in (
        (5, up, 1), (5, down, 9), (5, left, 4), (5, right, 6),
        (0, up, 0), (0, left, 0), (3, right, 3), (12, down, 12), (7, right, 7), (8, left, 8),
    ):  # fmt: skip
        assert world.step(world.parameters, state, action, 0.5) == (expected, 0.0, False)
    assert world.step(world.parameters, 14, right, 0.5) == (15, 1.0, True)
    assert world.step(world.parameters, 11, down, 0.5) == (15, 1.0, True)
    assert {
        world.reset(world.parameters, random) for random in np.linspace(0, 1, 100, endpoint=False)
    } == set(range(15))


def test_gridworld_is_solved_exactly_by_counting_steps() -> None:
    world = made("GridWorld-4")
    assert world.mdp is not None
    values = world.mdp().solve(0.9).max(axis=1)
    steps = [6 - row - column for row in range(4) for column in range(4)]
    assert np.allclose(values[:-1], [0.9 ** (count - 1) for count in steps[:-1]], atol=1e-12)


def test_slipping_is_to_both_sides_and_never_back() -> None:
    shares = frequencies(made("GridWorld-5", slip=0.2), DRAWS).next_state[12]
    for action, ahead, sides in ((0, 7, (11, 13)), (1, 17, (11, 13)), (2, 11, (7, 17)), (3, 13, (7, 17))):
        assert shares[action, ahead] == pytest.approx(0.8, abs=0.002)
        assert [shares[action, side] for side in sides] == pytest.approx([0.1, 0.1], abs=0.002)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("walls", [0.1, 0.4, 0.9])
def test_every_free_cell_has_a_way_to_the_goal(walls: float, seed: int) -> None:
    free = free_cells(12, 17, walls, seed)
    assert free[0, 0] and free[-1, -1]
    regions: Any = ndimage.label(free)
    assert regions[1] == 1
    assert (1 - free.mean()) > 0.2 * walls
    assert np.array_equal(free, free_cells(12, 17, walls, seed))
    world = made("GridWorld-12x17", walls=walls, seed=seed)
    starts = {world.reset(world.parameters, random) for random in np.linspace(0, 1, 5000, endpoint=False)}
    assert starts == set(np.flatnonzero(free.ravel())) - {12 * 17 - 1}
    cell, random = 0, np.random.default_rng(seed)
    for action in random.integers(0, 4, 500):
        cell, _, _ = world.step(world.parameters, cell, int(action), 0.5)
        assert free.ravel()[cell]


def test_chain_pays_at_the_end_and_falls_back_to_the_start() -> None:
    world = made("Chain-5")
    assert (world.num_states, world.num_actions, world.max_episode_steps) == (5, 2, 500)
    assert world.step(world.parameters, 3, 0, 0.5) == (0, 0.001, False)
    assert world.step(world.parameters, 2, 1, 0.5) == (3, 0.0, False)
    assert world.step(world.parameters, 3, 1, 0.5) == (4, 1.0, True)
    assert world.reset(world.parameters, 0.999) == 0


def test_queue_by_hand() -> None:
    world = made("Queue-2")  # arrival 0.4; service 0, 0.3, 0.6; energy 0, 0.125, 0.5
    assert (world.num_states, world.num_actions) == (3, 3)
    assert world.step(world.parameters, 0, 0, 0.39) == (1, 0.0, False)
    assert world.step(world.parameters, 2, 0, 0.39) == (2, -2.0, False)  # turned away
    assert world.step(world.parameters, 1, 1, 0.69) == (0, -0.625, False)
    assert world.step(world.parameters, 1, 1, 0.71) == (1, -0.625, False)
    assert world.step(world.parameters, 0, 2, 0.9) == (0, -0.5, False)


def test_inventory_by_hand() -> None:
    world = made("Inventory-3", demand=1)  # P(0) = 0.368, P(<= 1) = 0.736, P(<= 2) = 0.920
    assert world.step(world.parameters, 1, 2, 0.36) == (3, -4 - 4 - 3, False)
    assert world.step(world.parameters, 1, 2, 0.37) == (2, 8 - 11, False)
    assert world.step(world.parameters, 1, 2, 0.999) == (0, 24 - 11, False)
    assert world.step(world.parameters, 1, 0, 0.999) == (0, 8 - 1, False)
    assert world.allowed is not None
    assert [world.allowed(world.parameters, 2, order) for order in range(4)] == [True, True, False, False]


def test_masked_orders_are_never_taken_nor_bootstrapped_from() -> None:
    world = made("Inventory-6")
    masked = np.arange(7)[:, None] + np.arange(7) > 6
    table = learned(world, 50_000, np.where(masked, 1e9, 0.0))
    assert not table.visits[0][masked].any() and table.visits.sum() == 50_000
    assert (table.values[0][masked] == 1e9).all()
    assert np.abs(table.values[0][~masked]).max() < 1000


def test_a_garnet_is_its_seed() -> None:
    first, same, other = (frequencies(made("Garnet-9x2x3", seed=seed), 500) for seed in (1, 1, 2))
    assert np.array_equal(first.next_state, same.next_state) and np.array_equal(first.reward, same.reward)
    assert not np.array_equal(first.next_state, other.next_state)
    assert ((first.next_state > 0).sum(axis=2) <= 3).all() and not first.terminated.any()
    assert ((first.reward >= 0) & (first.reward < 1)).all()
    assert frequencies(made("Garnet-9x2x1"), 3).next_state.max(axis=2).min() == 1  # one branch: deterministic


def test_successors_are_distinct_and_every_set_as_likely() -> None:
    drawn = np.sort(distinct(np.random.default_rng(4), 30_000, 5, 3), axis=1)
    sets, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(sets) == 10 and (np.diff(sets, axis=1) > 0).all()
    assert stats.chisquare(counts).pvalue > 1e-5
    assert np.array_equal(
        np.sort(distinct(np.random.default_rng(4), 50, 6, 6), axis=1), [list(range(6))] * 50
    )
