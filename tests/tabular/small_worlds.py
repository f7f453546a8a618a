"""MDPs that the proofs learn in, all stored in one form, so that one compiled kernel serves them all."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qfleet.worlds.mdp import MDP, make_start
from qfleet.worlds.outcomes import Outcomes, record_type

CHAIN_DISCOUNT = 0.5


def in_one_form(mdp: MDP) -> MDP:
    """The same MDP with any number of float64 outcomes a pair, and a mask."""
    outcomes, pairs = mdp.outcomes, mdp.num_states * mdp.num_actions
    records = np.empty(outcomes.records.size, record_type(False, True))
    for field in ("next_state", "reward"):
        records[field] = outcomes.records[field]
    records["cumulative"] = 1.0 if outcomes.branching == 1 else outcomes.records["cumulative"]
    offsets = np.arange(pairs + 1) * outcomes.branching if outcomes.branching else outcomes.offsets
    allowed = np.ones((mdp.num_states, mdp.num_actions), np.bool_) if mdp.allowed is None else mdp.allowed
    return replace(mdp, outcomes=Outcomes(records, 0, offsets), allowed=allowed)


def frozen_lake() -> MDP:
    """Slippery, 4 x 4."""
    return in_one_form(MDP.from_gymnasium("FrozenLake-v1", is_slippery=True))


def cliff_walking() -> MDP:
    """Episodes begin anywhere and are truncated soon, so that the far corners are seen; values know of neither."""
    mdp = MDP.from_gymnasium("CliffWalking-v1")
    anywhere = np.ones(mdp.num_states) / (mdp.num_states - 1)
    anywhere[-1] = 0.0
    terminal = np.arange(mdp.num_states) == mdp.num_states - 1
    start = make_start(mdp.name, anywhere, mdp.num_states, terminal)
    return in_one_form(replace(mdp, start=start, max_episode_steps=20))


def taxi() -> MDP:
    """With its own action masks."""
    return in_one_form(MDP.from_gymnasium("Taxi-v4"))


def chain() -> MDP:
    """Three states, the last terminal, whose values are computed by hand for the discount 1/2.

    State 0: stays for 1, or goes on for nothing. State 1: goes back for nothing, or tries to end: with
    probability 1/2 it does, for 4, else it stays.
    """
    transitions, rewards = np.zeros((3, 2, 3)), np.zeros((3, 2, 3))
    transitions[0, 0, 0] = transitions[0, 1, 1] = transitions[1, 0, 0] = 1.0
    transitions[1, 1, 1] = transitions[1, 1, 2] = 0.5
    rewards[0, 0, 0], rewards[1, 1, 2] = 1.0, 4.0
    return in_one_form(MDP.from_arrays(transitions, rewards, terminal=[2], start=0, name="chain"))


CHAIN_OPTIMUM = np.array([[2, 4 / 3], [1, 8 / 3]])
"""V(0) = 1 + V(0) / 2 = 2; V(1) = 4 / 2 + V(1) / 4 = 8 / 3."""
CHAIN_HALF_GREEDY = np.array([[38, 22], [17, 53]]) / 21
"""At epsilon 1/2: V(0) = 3/4 Q(0, 0) + 1/4 Q(0, 1) = 34 / 21, V(1) = 1/4 Q(1, 0) + 3/4 Q(1, 1) = 44 / 21."""
CHAIN_UNIFORM = np.array([[30, 14], [11, 45]]) / 19
"""Both actions alike: V(0) = 22 / 19, V(1) = 28 / 19."""


def garnet(seed: int, num_states: int = 10, num_actions: int = 3, branching: int = 3) -> MDP:
    """A random MDP that never ends; episodes begin anywhere, and are truncated after 50 steps."""
    random = np.random.default_rng(seed)
    transitions = np.zeros((num_states, num_actions, num_states))
    for pair in np.ndindex(num_states, num_actions):
        nexts = random.choice(num_states, branching, replace=False)
        transitions[pair][nexts] = random.dirichlet(np.ones(branching))
    rewards = random.random((num_states, num_actions))
    return in_one_form(MDP.from_arrays(transitions, rewards, max_episode_steps=50, name=f"garnet {seed}"))


def bandit(rewards: NDArray[np.float64], allowed: NDArray[np.bool_] | None = None) -> MDP:
    """One state, and as many actions as rewards (n,)."""
    stays = np.zeros((1, len(rewards)), np.int64)
    mask = None if allowed is None else allowed[None]
    return in_one_form(MDP.from_arrays(stays, rewards[None], allowed=mask, name="bandit"))


def masked_garnet(seed: int) -> MDP:
    """A Garnet that ends in its last state, where a third of the actions is masked, in every state another set."""
    mdp = garnet(seed, num_states=12, num_actions=4)
    random = np.random.default_rng(seed)
    allowed = random.random((12, 4)) < 0.6
    allowed[np.arange(12), random.integers(0, 4, 12)] = True
    transitions, rewards = dense(mdp)
    masked = MDP.from_arrays(
        transitions, rewards, terminal=[11], allowed=allowed, max_episode_steps=7, name="masked garnet"
    )
    return in_one_form(masked)


def dense(mdp: MDP) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transitions (S, A, S) and mean rewards (S, A) of an MDP in the one form that never ends."""
    shape = (mdp.num_states, mdp.num_actions)
    transitions, rewards = np.zeros((*shape, mdp.num_states)), np.zeros(shape)
    records, offsets = mdp.outcomes.records, mdp.outcomes.offsets
    for pair in range(shape[0] * shape[1]):
        part = records[offsets[pair] : offsets[pair + 1]]
        probabilities = np.diff(part["cumulative"], prepend=0.0)
        where = np.unravel_index(pair, shape)
        np.add.at(transitions[where], part["next_state"], probabilities)
        rewards[where] = probabilities @ part["reward"]
    return transitions, rewards
