"""Several threads that make each update together: a part of the minibatch each, then a part of the parameters each.

Read `learn_part` beside `learn.learn_batches`: the same updates but for the order in which gradients are added, which
is that of the threads' ranks.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.layers import make_scratch
from qfleet.deep.compiled.learn import gradient_at
from qfleet.deep.compiled.meeting import meet
from qfleet.deep.optimizer import adam_step, global_norm, move_towards
from qfleet.kernels import kernel
from qfleet.replay.replay import Batch


class Meeting(NamedTuple):
    """What the threads see of one another; a row or entry for each."""

    gradients: NDArray
    """(num_threads, num_parameters) float32"""
    losses: NDArray
    """(num_threads,) float64: what each part adds to the minibatch's loss."""
    squares: NDArray
    """(num_threads,) float64: what each part of the gradient adds to its squared norm."""
    arrived: NDArray
    """(1,) int64"""


def make_meeting(num_threads: int, num_parameters: int) -> Meeting:
    """For so many threads."""
    gradients = np.empty((num_threads, num_parameters), np.float32)
    return Meeting(gradients, np.zeros(num_threads), np.zeros(num_threads), np.zeros(1, np.int64))


@kernel
def part_at(batches, number, first, last):
    """Transitions [first, last) of minibatch `number`; `observations` are those acted on alone."""
    return Batch(
        batches.rows[number][first:last],
        batches.observations[number][first:last],
        batches.next_action_masks[number][first:last],
        batches.actions[number][first:last],
        batches.rewards[number][first:last],
        batches.discounts[number][first:last],
        batches.weights[number][first:last],
    )


@kernel
def add_up(gradients, num, start, end):
    """Writes the minibatch's gradient in [start, end) to the first row; its sum of squares.

    `gradients` are means over each thread's part of the `num` transitions.
    """
    num_threads, added = len(gradients), gradients[0, start:end]
    for rank in range(num_threads):
        size = num * (rank + 1) // num_threads - num * rank // num_threads
        share, own = np.float32(size / num), gradients[rank, start:end]
        if rank == 0:
            for j in range(len(added)):
                added[j] *= share
        else:
            for j in range(len(added)):
                added[j] += share * own[j]
    return global_norm(added) ** 2


@kernel
def step_part(rule, vectors, gradient, number, norm, start, end):
    """Update `number` of the parameters [start, end), and the target's move if one is due."""
    adam_step(
        vectors.parameters[start:end],
        gradient[start:end],
        vectors.first_moment[start:end],
        vectors.second_moment[start:end],
        number,
        rule.learning_rate,
        rule.adam_epsilon,
        rule.max_gradient_norm,
        norm,
    )
    if number % rule.target_update_every_updates == 0:
        move_towards(vectors.target[start:end], vectors.parameters[start:end], rule.target_update_rate)


@kernel
def fill_part(plan, rule, vectors, batches, number, meeting, rank, bounds, scratch, td_errors):
    """This thread's row of the gradients, from transitions [bounds) of minibatch `number`; its share of the loss."""
    num, (first, last) = batches.actions.shape[1], bounds
    following = batches.observations[number][num + first : num + last]
    targets = np.empty(last - first, np.float32)
    value_deltas = np.empty((last - first, plan.num_actions), np.float32)
    part, gradient = part_at(batches, number, first, last), meeting.gradients[rank]
    loss = gradient_at(
        plan, rule, vectors, part, following, scratch, gradient, targets, td_errors[first:last], value_deltas
    )
    return loss * (last - first) / num


@kernel
def learn_part(plan, rule, vectors, batches, num_updates_before, sums, meeting, rank, all_errors):
    """What thread `rank` does of an update from each of `batches`; all threads are given the same but for `rank`.

    Returns how many were made, as `learn_batches` does, or -1 if another thread has not come. Fills `all_errors`
    (num_batches, batch).
    """
    num_threads, num_parameters = meeting.gradients.shape
    num_batches, num = batches.actions.shape
    bounds = num * rank // num_threads, num * (rank + 1) // num_threads
    start, end = num_parameters * rank // num_threads, num_parameters * (rank + 1) // num_threads
    scratch = make_scratch(plan, bounds[1] - bounds[0], batches.observations.shape[2])
    for i in range(num_batches):
        meeting.losses[rank] = fill_part(
            plan, rule, vectors, batches, i, meeting, rank, bounds, scratch, all_errors[i]
        )
        if not meet(meeting.arrived, (3 * i + 1) * num_threads):
            return -1
        loss = np.sum(meeting.losses)
        if not np.isfinite(loss):
            return i
        meeting.squares[rank] = add_up(meeting.gradients, num, start, end)
        if not meet(meeting.arrived, (3 * i + 2) * num_threads):
            return -1
        norm = math.sqrt(np.sum(meeting.squares))
        if not np.isfinite(norm):
            return i
        step_part(rule, vectors, meeting.gradients[0], num_updates_before + i + 1, norm, start, end)
        if rank == 0:
            sums[0] += loss
            sums[1] += np.mean(np.abs(all_errors[i]))
            sums[2] += norm
        if not meet(meeting.arrived, (3 * i + 3) * num_threads):
            return -1
    return num_batches
