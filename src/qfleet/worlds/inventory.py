"""Inventory: how much to order before the demand of the day is known (Puterman 1994, section 3.2)."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import part
from qfleet.worlds.options import WorldOptions
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

EPISODE_STEPS = 1000


@dataclass(frozen=True)
class InventoryOptions(WorldOptions):
    """What can be chosen of an Inventory beside its capacity; the prices are Puterman's."""

    demand: float = 0.0
    """Mean of the day's demand, a Poisson number; 0: a quarter of the capacity."""
    price: float = 8.0
    """What a unit sells for."""
    unit_cost: float = 2.0
    """What a unit costs to order."""
    order_cost: float = 4.0
    """What an order costs beside its units."""
    holding_cost: float = 1.0
    """What a unit in stock costs a day, the units that have just come included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("demand", "price", "unit_cost", "order_cost", "holding_cost"):
            self.require_at_least(name, 0)


class Inventory(NamedTuple):
    """What the jitted functions are given."""

    capacity: int
    cumulated: NDArray[np.float64]
    """(capacity + 1,): probability that the demand is at most d; the last is 1, as more cannot be sold anyway."""
    price: float
    unit_cost: float
    order_cost: float
    holding_cost: float


@part
def _demand(cumulated, random):
    """The smallest d with random < cumulated[d], by bisection."""
    low, high = 0, cumulated.size - 1
    while low < high:
        middle = (low + high) >> 1
        if random < cumulated[middle]:
            high = middle
        else:
            low = middle + 1
    return low


@part
def _step(inventory, stock, action, random):
    full = stock + action
    sold = min(full, _demand(inventory.cumulated, random))
    cost = inventory.unit_cost * action + inventory.holding_cost * full
    if action > 0:
        cost += inventory.order_cost
    return full - sold, inventory.price * sold - cost, False


@part
def _reset(inventory, random):
    return np.int64(random * (inventory.capacity + 1))


@part
def _allowed(inventory, stock, action):
    return stock + action <= inventory.capacity


def make_inventory(capacity: int, options: InventoryOptions, name: str) -> World:
    """Inventory-N: states 0 to N, the units in stock; actions 0 to N, the units to order.

    An order that would not fit is no action of the state. It never terminates; episodes begin with any stock and
    are truncated after 1000 steps.
    """
    return World(
        step=_step,
        reset=_reset,
        allowed=_allowed,
        num_states=capacity + 1,
        num_actions=capacity + 1,
        parameters=_parameters(capacity, options),
        name=name,
        max_episode_steps=options.max_episode_steps or EPISODE_STEPS,
        mdp=partial(inventory_mdp, capacity, options, name),
    )


def _parameters(capacity: int, options: InventoryOptions) -> Inventory:
    from scipy.stats import poisson

    cumulated = poisson(options.demand or capacity / 4).cdf(np.arange(capacity + 1))
    cumulated[-1] = 1.0
    return Inventory(
        capacity,
        cumulated,
        float(options.price),
        float(options.unit_cost),
        float(options.order_cost),
        float(options.holding_cost),
    )


def inventory_mdp(capacity: int, options: InventoryOptions, name: str) -> "MDP":
    """The same world in arrays."""
    from scipy import sparse

    from qfleet.worlds.mdp import MDP

    inventory = _parameters(capacity, options)
    size = capacity + 1
    stock, order = np.arange(size)[:, None], np.arange(size)
    allowed = stock + order <= capacity
    full = np.where(allowed, stock + order, stock)
    by_full, sold = _sales(inventory)
    cost = inventory.unit_cost * order + inventory.holding_cost * full + inventory.order_cost * (order > 0)
    rewards = np.where(allowed, inventory.price * sold[full] - cost, 0.0)
    return MDP.from_arrays(
        sparse.csr_matrix(by_full)[full.ravel()],
        rewards,
        allowed=allowed,
        max_episode_steps=options.max_episode_steps or EPISODE_STEPS,
        name=name,
    )


def _sales(inventory: Inventory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By the units on the shelf in the morning: probabilities of what is left, and the mean of what is sold."""
    size = inventory.capacity + 1
    demand = np.diff(inventory.cumulated, prepend=0.0)
    left = np.zeros((size, size))
    for full in range(size):
        left[full, full:0:-1] = demand[:full]
        left[full, 0] = 1 - demand[:full].sum()
    return left, np.arange(size) - left @ np.arange(size)
