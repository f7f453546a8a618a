"""Chain: the reward lies at the far end, and every step back begins from the start again.

Strens 2000 ("A Bayesian framework for reinforcement learning"), with an end; as hard to explore as the deep sea
of Osband et al. 2020 (bsuite): a uniform policy needs about 2^N steps to see the end once.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfleet.kernels import part
from qfleet.worlds.options import WorldOptions
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP

LEFT, RIGHT = range(2)


@dataclass(frozen=True)
class ChainOptions(WorldOptions):
    """What can be chosen of a Chain beside its length."""

    slip: float = 0.0
    """Probability that the other action happens."""
    left_reward: float = 0.001
    """What going left pays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_probability("slip")
        self.require_at_least("left_reward", 0)


class Chain(NamedTuple):
    """What the jitted functions are given."""

    end: int
    slip: float
    left_reward: float


@part
def _step(chain, state, action, random):
    goes_right = (action == 1) != (random < chain.slip)
    if not goes_right:
        return np.int64(0), chain.left_reward, False
    reached = state + 1 == chain.end
    return state + 1, 1.0 if reached else 0.0, reached


@part
def _reset(chain, random):
    return np.int64(0)


def make_chain(length: int, options: ChainOptions, name: str) -> World:
    """Chain-N: states 0 to N - 1, actions left and right, episodes from state 0.

    Left leads back to state 0 and pays `left_reward`; right leads to the next state and pays nothing, but 1 on
    entering the last one, where the episode terminates. Truncated after 100 * N steps.
    """
    return World(
        step=_step,
        reset=_reset,
        num_states=length,
        num_actions=2,
        parameters=Chain(length - 1, float(options.slip), float(options.left_reward)),
        name=name,
        max_episode_steps=options.max_episode_steps or 100 * length,
        mdp=partial(chain_mdp, length, options, name),
    )


def chain_mdp(length: int, options: ChainOptions, name: str) -> "MDP":
    """The same world in arrays."""
    from scipy import sparse

    from qfleet.worlds.mdp import MDP

    right = np.minimum(np.arange(length) + 1, length - 1)
    happens = np.array([[1 - options.slip, options.slip], [options.slip, 1 - options.slip]])
    targets = np.column_stack([np.zeros(length, np.int64), right])
    pays = np.column_stack([np.full(length, options.left_reward), (right == length - 1).astype(float)])
    entries = (
        np.tile(happens, (length, 1)).ravel(),
        (np.repeat(np.arange(2 * length), 2), np.repeat(targets, 2, axis=0).ravel()),
    )
    transitions = sparse.coo_matrix(entries, shape=(2 * length, length)).tocsr()
    transitions.eliminate_zeros()
    return MDP.from_arrays(
        transitions,
        pays @ happens.T,
        terminal=np.arange(length) == length - 1,
        start=(np.arange(length) == 0).astype(float),
        max_episode_steps=options.max_episode_steps or 100 * length,
        name=name,
    )
