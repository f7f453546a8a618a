"""The gradient of whole episodes as one compiled call, and the REINFORCE learner whose networks it runs."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.layers import backward, forward, make_scratch
from qfleet.deep.compiled.learner import CompiledPolicy
from qfleet.deep.episodes import Episodes
from qfleet.deep.networks import NetworkShape, compiled_plan
from qfleet.deep.parameters import initial_parameters
from qfleet.deep.policy_gradient import baseline_loss, policy_loss, returns_to_go, state_weights
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import STEPS_AT_A_TIME, Losses, ReinforceLearner, baseline_shape
from qfleet.kernels import kernel


@kernel
def final_values(plan, parameters, episodes, use_baseline, scratch):
    """(num_episodes,) float64: the baseline's value of what a truncated episode ended in; else 0."""
    found = np.zeros(len(episodes.lengths), np.float64)
    if not use_baseline or not np.any(episodes.truncated):
        return found
    room = len(scratch.values)
    for start in range(0, len(found), room):
        values = forward(plan, parameters, episodes.final_observations[start : start + room], scratch)
        for i in range(len(values)):
            if episodes.truncated[start + i]:
                found[start + i] = values[i, 0]
    return found


@kernel
def episodes_gradient(plan, baseline_plan, rule, parameters, baseline_parameters, episodes, room, gradient):
    """Fills `gradient` with the losses' gradient, the policy's parameters first and then the baseline's.

    Returns (policy loss, baseline loss, mean entropy). `room` steps are computed at a time, which bounds the memory.
    """
    num_steps, num_inputs = episodes.observations.shape
    num_episodes, num = len(episodes.lengths), len(parameters)
    scratch = make_scratch(plan, room, num_inputs)
    baseline_scratch = make_scratch(baseline_plan, room, num_inputs)
    returns, weights = np.empty(num_steps, np.float64), np.empty(num_steps, np.float64)
    ends = final_values(baseline_plan, baseline_parameters, episodes, rule.baseline, baseline_scratch)
    returns_to_go(episodes.rewards, episodes.lengths, ends, rule.discount, returns)
    state_weights(episodes.lengths, rule.discount, rule.discount_states, weights)
    part = np.empty(num, np.float32)
    baseline_part = np.empty(len(baseline_parameters), np.float32)
    deltas, baseline_deltas = (
        np.empty((room, plan.num_actions), np.float32),
        np.empty((room, 1), np.float32),
    )
    gradient[:] = 0
    losses = np.zeros(3)
    for start in range(0, num_steps, room):
        end = min(start + room, num_steps)
        observations, advantages = episodes.observations[start:end], returns[start:end].copy()
        if rule.baseline:
            values = forward(baseline_plan, baseline_parameters, observations, baseline_scratch)
            own = baseline_deltas[: end - start]
            losses[1] += baseline_loss(values, returns[start:end], num_episodes, own)
            advantages -= values[:, 0]
            backward(baseline_plan, baseline_parameters, own, baseline_scratch, baseline_part)
            gradient[num:] += baseline_part
        own = deltas[: end - start]
        loss, entropies = policy_loss(
            forward(plan, parameters, observations, scratch),
            episodes.masks[start:end],
            episodes.actions[start:end],
            advantages,
            weights[start:end],
            rule.entropy_coefficient,
            num_episodes,
            own,
        )
        losses[0] += loss
        losses[2] += entropies / num_steps
        backward(plan, parameters, own, scratch, part)
        gradient[:num] += part
    return losses[0], losses[1], losses[2]


@final
class CompiledReinforceLearner(ReinforceLearner):
    """REINFORCE on the compiled kernels."""

    def __init__(self, config: ReinforceConfig, shape: NetworkShape, seed: int) -> None:
        self._plan, slots = compiled_plan(shape)
        self._baseline_plan, baseline_slots = compiled_plan(baseline_shape(shape))
        self._num_inputs = shape.num_inputs
        parameters = initial_parameters(slots, seed)
        super().__init__(config, parameters, initial_parameters(baseline_slots, seed + 1), {})

    def _fill(self, episodes: Episodes, gradient: NDArray[np.float32]) -> Losses:
        room = min(STEPS_AT_A_TIME, len(episodes.actions))
        rule, policy, baseline = self._rule, self._policy_parameters, self._baseline_parameters
        return Losses(
            *episodes_gradient(
                self._plan, self._baseline_plan, rule, policy, baseline, episodes, room, gradient
            )
        )

    def policy(self) -> CompiledPolicy:
        """A plan of the policy's shape to act with."""
        return CompiledPolicy(self._plan, self._num_inputs)
