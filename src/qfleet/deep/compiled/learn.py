"""A whole block of DQN updates in one compiled call, in which the interpreter lock is free.

Read `learn_block` beside algorithm 1 of Mnih et al. 2015; everything it calls is the same code the PyTorch
learner uses, except the network itself.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.layers import backward, forward, make_scratch
from qfleet.deep.losses import td_loss
from qfleet.deep.optimizer import adam, move_towards
from qfleet.deep.targets import bootstrapped_targets
from qfleet.kernels import kernel
from qfleet.replay.replay import Batch, draw, update_priorities


class Vectors(NamedTuple):
    """What learning changes, each (num_parameters,) float32."""

    parameters: NDArray
    target: NDArray
    first_moment: NDArray
    second_moment: NDArray


@kernel
def gradient_at(
    plan, rule, vectors, batch, next_observations, scratch, gradient, targets, td_errors, value_deltas
):
    """The same with the next observations given apart; those acted on come first in the batch's own."""
    observations = batch.observations[: len(batch.rows)]
    next_values = forward(plan, vectors.target, next_observations, scratch).copy()
    selecting_values = next_values
    if rule.double:
        selecting_values = forward(plan, vectors.parameters, next_observations, scratch)
    bootstrapped_targets(
        batch.rewards, batch.discounts, selecting_values, next_values, batch.next_action_masks, targets
    )
    values = forward(plan, vectors.parameters, observations, scratch)
    loss = td_loss(values, batch.actions, targets, batch.weights, rule.huber_limit, td_errors, value_deltas)
    backward(plan, vectors.parameters, value_deltas, scratch, gradient)
    return loss


@kernel
def gradient_step(plan, rule, vectors, batch, scratch, gradient, targets, td_errors, value_deltas):
    """Fills `gradient` (num_parameters,) with that of the minibatch's loss; returns the loss."""
    next_observations = batch.observations[len(batch.rows) :]
    return gradient_at(
        plan, rule, vectors, batch, next_observations, scratch, gradient, targets, td_errors, value_deltas
    )


@kernel
def batch_gradient(plan, rule, vectors, batch):
    """Loss, gradient (num_parameters,) and TD errors (batch,) of a minibatch brought from elsewhere."""
    num = len(batch.rows)
    scratch = make_scratch(plan, num, batch.observations.shape[1])
    gradient = np.empty(len(vectors.parameters), np.float32)
    targets, td_errors = np.empty(num, np.float32), np.empty(num, np.float32)
    value_deltas = np.empty((num, plan.num_actions), np.float32)
    loss = gradient_step(plan, rule, vectors, batch, scratch, gradient, targets, td_errors, value_deltas)
    return loss, gradient, td_errors


@kernel
def optimize(rule, vectors, gradient, number):
    """Update `number`: Adam, and the target's move if one is due; the gradient's norm, if finite."""
    norm = adam(
        vectors.parameters,
        gradient,
        vectors.first_moment,
        vectors.second_moment,
        number,
        rule.learning_rate,
        rule.adam_epsilon,
        rule.max_gradient_norm,
    )
    if np.isfinite(norm) and number % rule.target_update_every_updates == 0:
        move_towards(vectors.target, vectors.parameters, rule.target_update_rate)
    return norm


@kernel
def learn_block(
    plan, rule, view, vectors, batch, seed, num_updates_before, num_updates, importance_exponent, sums
):
    """Makes updates number `num_updates_before` + 1 … + `num_updates`; returns how many were made.

    Fewer than asked means that the next one's loss or gradient was not finite: its step was not taken. `sums`
    (3,) float64 gathers loss, |TD error| and gradient norm over the updates.
    """
    num = len(batch.rows)
    num_inputs = batch.observations.shape[1]
    scratch = make_scratch(plan, num, num_inputs)
    gradient = np.empty(len(vectors.parameters), np.float32)
    targets, td_errors = np.empty(num, np.float32), np.empty(num, np.float32)
    value_deltas = np.empty((num, plan.num_actions), np.float32)
    for i in range(num_updates):
        number = num_updates_before + i + 1
        draw(view, seed, number, importance_exponent, batch)
        loss = gradient_step(plan, rule, vectors, batch, scratch, gradient, targets, td_errors, value_deltas)
        if not np.isfinite(loss):
            return i
        norm = optimize(rule, vectors, gradient, number)
        if not np.isfinite(norm):
            return i
        update_priorities(view, batch.rows, td_errors, rule.priority_exponent, rule.priority_floor)
        sums[0] += loss
        sums[1] += np.mean(np.abs(td_errors))
        sums[2] += norm
    return num_updates


@kernel
def batch_at(batches, number):
    """Minibatch `number` of some whose arrays have one more axis in front."""
    return Batch(
        batches.rows[number],
        batches.observations[number],
        batches.next_action_masks[number],
        batches.actions[number],
        batches.rewards[number],
        batches.discounts[number],
        batches.weights[number],
    )


@kernel
def learn_batches(plan, rule, vectors, batches, num_updates_before, sums):
    """An update from each of `batches`, whose arrays have one more axis in front, as `learn_block` makes them.

    Returns how many were made, and the TD errors (num_batches, batch).
    """
    num_batches, num = batches.actions.shape
    scratch = make_scratch(plan, num, batches.observations.shape[2])
    gradient = np.empty(len(vectors.parameters), np.float32)
    targets, td_errors = np.empty(num, np.float32), np.empty((num_batches, num), np.float32)
    value_deltas = np.empty((num, plan.num_actions), np.float32)
    for i in range(num_batches):
        batch = batch_at(batches, i)
        loss = gradient_step(
            plan, rule, vectors, batch, scratch, gradient, targets, td_errors[i], value_deltas
        )
        if not np.isfinite(loss):
            return i, td_errors
        norm = optimize(rule, vectors, gradient, num_updates_before + i + 1)
        if not np.isfinite(norm):
            return i, td_errors
        sums[0] += loss
        sums[1] += np.mean(np.abs(td_errors[i]))
        sums[2] += norm
    return num_batches, td_errors
