"""Queue: how fast to serve a queue of limited length, where speed costs energy and waiting costs time.

Service-rate control of an M/M/1/N queue, uniformised: one step is one event of a Poisson clock (Puterman 1994,
section 11.5).
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.kernels import part
from qfleet.worlds.options import WorldOptions
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

EPISODE_STEPS = 1000


@dataclass(frozen=True)
class QueueOptions(WorldOptions):
    """What can be chosen of a Queue beside its length."""

    arrival: float = 0.4
    """Probability that a step brings a customer."""
    service: float = 0.6
    """Probability that a step at full speed serves one; arrival + service is at most 1."""
    speeds: int = 3
    """Number of actions: speeds from standing still to full."""
    energy: float = 0.5
    """What a step at full speed costs; a slower one costs less by the square of the speed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_probability("arrival")
        self.require_probability("service")
        if self.arrival + self.service > 1:
            raise QfleetError(f"arrival {self.arrival} + service {self.service} must be at most 1")
        self.require_at_least("speeds", 2)
        self.require_at_least("energy", 0)


class Queue(NamedTuple):
    """What the jitted functions are given."""

    capacity: int
    arrival: float
    service: NDArray[np.float64]
    """(actions,): probability that a step serves a customer."""
    energy: NDArray[np.float64]
    """(actions,): what a step costs."""


@part
def _step(queue, waiting, action, random):
    cost = waiting / queue.capacity + queue.energy[action]
    if random < queue.arrival:
        if waiting == queue.capacity:
            return waiting, -cost - 1.0, False
        return waiting + 1, -cost, False
    served = waiting > 0 and random < queue.arrival + queue.service[action]
    return waiting - np.int64(served), -cost, False


@part
def _reset(queue, random):
    return np.int64(random * (queue.capacity + 1))


def make_queue(capacity: int, options: QueueOptions, name: str) -> World:
    """Queue-N: states 0 to N, the customers waiting; actions: speeds of service.

    A step costs waiting / N, the energy of its speed, and 1 if a customer comes and there is no room. It never
    terminates; episodes begin with any number waiting and are truncated after 1000 steps.
    """
    return World(
        step=_step,
        reset=_reset,
        num_states=capacity + 1,
        num_actions=options.speeds,
        parameters=_parameters(capacity, options),
        name=name,
        max_episode_steps=options.max_episode_steps or EPISODE_STEPS,
        mdp=partial(queue_mdp, capacity, options, name),
    )


def _parameters(capacity: int, options: QueueOptions) -> Queue:
    speeds = np.linspace(0, 1, options.speeds)
    return Queue(capacity, float(options.arrival), speeds * options.service, options.energy * speeds**2)


def queue_mdp(capacity: int, options: QueueOptions, name: str) -> "MDP":
    """The same world in arrays."""
    from scipy import sparse

    from qfleet.worlds.mdp import MDP

    queue, num_actions = _parameters(capacity, options), options.speeds
    waiting = np.arange(capacity + 1)[:, None]
    targets = np.stack([np.minimum(waiting + 1, capacity), np.maximum(waiting - 1, 0), waiting], axis=2)
    happens = np.stack(
        [np.full(num_actions, queue.arrival), queue.service, 1 - queue.arrival - queue.service], axis=1
    )
    num_pairs = (capacity + 1) * num_actions
    entries = (
        np.tile(happens.ravel(), capacity + 1),
        (np.repeat(np.arange(num_pairs), 3), np.repeat(targets[:, 0], num_actions, axis=0).ravel()),
    )
    transitions = sparse.coo_matrix(entries, shape=(num_pairs, capacity + 1)).tocsr()
    turned_away = queue.arrival * (waiting == capacity)
    return MDP.from_arrays(
        transitions,
        -(waiting / capacity + queue.energy + turned_away),
        max_episode_steps=options.max_episode_steps or EPISODE_STEPS,
        name=name,
    )
