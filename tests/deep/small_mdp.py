"""A small MDP as environments that step together, and what theory says of a softmax policy in it, in float64."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qfleet.deep.networks import NetworkConfig, decide
from qfleet.environments.vector import ObservationLayout, Step, VectorEnvironment
from qfleet.worlds.mdp import MDP

NUM_STATES, NUM_ACTIONS, HIDDEN, DISCOUNT = 3, 3, 4, 0.8
LAYOUT = ObservationLayout((NUM_STATES,), np.dtype(np.float32), is_image=False)
SHAPE = decide(NetworkConfig(hidden_sizes=(HIDDEN,)), LAYOUT, 1, NUM_ACTIONS)
MASKS = np.array([[True, True, False], [True, True, True], [False, True, True]])
START = np.array([0.7, 0.2, 0.1])
_RANDOM = np.random.default_rng(5)
TRANSITIONS = _RANDOM.dirichlet(np.full(NUM_STATES + 1, 0.5), (NUM_STATES, NUM_ACTIONS)) * 0.85
TRANSITIONS[..., NUM_STATES] += 0.15
"""(state, action, next state); the last next state is the end."""
REWARDS = 2 * _RANDOM.normal(size=(NUM_STATES, NUM_ACTIONS, NUM_STATES + 1))
NUM_POLICY = HIDDEN * NUM_STATES + HIDDEN + NUM_ACTIONS * HIDDEN + NUM_ACTIONS


class SmallMDP(VectorEnvironment):
    """`num_envs` walkers in it; observations are one-hot."""

    engine, num_actions, layout, frame_stack = "in-process", NUM_ACTIONS, LAYOUT, 1

    def __init__(self, num_envs: int, *, masked: bool = True) -> None:
        self.num_envs, self._masked = num_envs, masked
        self._cumulative = np.cumsum(TRANSITIONS, axis=-1)

    def _seen(self) -> tuple[NDArray, NDArray[np.bool_] | None]:
        return np.eye(NUM_STATES, dtype=np.float32)[self._states], MASKS[
            self._states
        ] if self._masked else None

    def reset(self, seed: int) -> tuple[NDArray, NDArray[np.bool_] | None]:
        self._generator = np.random.default_rng(seed)
        self._states = self._generator.choice(NUM_STATES, self.num_envs, p=START)
        return self._seen()

    def step(self, actions: NDArray[np.int64]) -> Step:
        assert not self._masked or MASKS[self._states, actions].all()
        draws = self._generator.random(self.num_envs)
        following = (draws[:, None] >= self._cumulative[self._states, actions]).sum(axis=1)
        following = np.minimum(following, NUM_STATES)
        rewards, ended = REWARDS[self._states, actions, following], following == NUM_STATES
        self._states = np.where(ended, self._generator.choice(NUM_STATES, self.num_envs, p=START), following)
        observations, masks = self._seen()
        finals, everywhere = np.zeros_like(observations), np.ones(self.num_envs, np.bool_)
        return Step(observations, rewards, ended, ~everywhere, finals, everywhere, ended, masks, masks)

    def save_state(self) -> None:
        return None

    def load_state(self, state: dict[str, NDArray]) -> None:
        raise AssertionError("there is never a state to load")

    def close(self) -> None:
        """Nothing is open."""


def policy_of(vector: Tensor) -> Tensor:
    """pi (state, action) of a network's parameters (NUM_POLICY,)."""
    sizes = [HIDDEN * NUM_STATES, HIDDEN, NUM_ACTIONS * HIDDEN, NUM_ACTIONS]
    weight_1, bias_1, weight_2, bias_2 = torch.split(vector, sizes)
    hidden = torch.relu(weight_1.view(HIDDEN, NUM_STATES).T + bias_1)
    logits = hidden @ weight_2.view(NUM_ACTIONS, HIDDEN).T + bias_2
    return torch.softmax(logits.masked_fill(~torch.from_numpy(MASKS), -torch.inf), dim=1)


def _under(policy: Tensor) -> tuple[Tensor, Tensor]:
    """Transitions among the states (3, 3) and expected rewards (3,) under a policy."""
    transitions, rewards = torch.from_numpy(TRANSITIONS), torch.from_numpy((TRANSITIONS * REWARDS).sum(-1))
    return torch.einsum("sa,sat->st", policy, transitions[..., :NUM_STATES]), (policy * rewards).sum(1)


def exact_gradient(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """grad J of J = start . (I - discount P)^-1 r, by automatic differentiation through the solution."""
    parameters = torch.from_numpy(vector.astype(np.float64)).requires_grad_()
    transitions, rewards = _under(policy_of(parameters))
    values = torch.linalg.solve(torch.eye(NUM_STATES) - DISCOUNT * transitions, rewards)
    (torch.from_numpy(START) @ values).backward()
    assert parameters.grad is not None
    return parameters.grad.numpy()


def undiscounted_states_gradient(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """sum_s visits(s) sum_a q(s, a) grad pi(a | s): the visits undiscounted, q discounted and held fixed."""
    parameters = torch.from_numpy(vector.astype(np.float64)).requires_grad_()
    policy = policy_of(parameters)
    transitions, _ = _under(policy.detach())
    visits = torch.linalg.solve(torch.eye(NUM_STATES) - transitions.T, torch.from_numpy(START))
    values = np.where(MASKS, action_values(policy.detach().numpy()), 0)
    (visits[:, None] * policy * torch.from_numpy(values)).sum().backward()
    assert parameters.grad is not None
    return parameters.grad.numpy()


def action_values(policy: NDArray[np.float64]) -> NDArray[np.float64]:
    """q (state, action) by the exact evaluation of tables."""
    shape = (NUM_STATES + 1, NUM_ACTIONS, NUM_STATES + 1)
    transitions, rewards = np.zeros(shape), np.zeros(shape)
    transitions[:NUM_STATES], rewards[:NUM_STATES] = TRANSITIONS, REWARDS
    whole = np.vstack([policy, np.full((1, NUM_ACTIONS), 1 / NUM_ACTIONS)])
    allowed = np.vstack([MASKS, np.ones((1, NUM_ACTIONS), np.bool_)])
    mdp = MDP.from_arrays(transitions, rewards, terminal=[NUM_STATES], allowed=allowed)
    return mdp.evaluate(whole, DISCOUNT).q[:NUM_STATES]
