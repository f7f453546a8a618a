"""How wrong Q is, and the gradient of that with respect to Q."""

import numpy as np

from qfleet.kernels import kernel


@kernel
def td_loss(values, actions, targets, weights, huber_limit, td_errors, value_deltas):
    """Mean over the batch of weight * loss(target - Q(s, a)); fills td_errors (batch,) and value_deltas.

    The loss is d^2 / 2 up to |d| = huber_limit and linear beyond (Huber 1964; infinity makes it squared).
    `values` is (batch, num_actions), `actions` (batch,), `weights` (batch,). `value_deltas` (batch,
    num_actions) receives the gradient of the mean with respect to Q.
    """
    num = len(actions)
    value_deltas[:] = 0
    total = 0.0
    for i in range(num):
        error = targets[i] - values[i, actions[i]]
        size = abs(error)
        inside = min(size, huber_limit)
        total += weights[i] * (inside * inside / 2 + inside * (size - inside if size > inside else 0.0))
        td_errors[i] = error
        slope = inside if error < 0 else -inside
        value_deltas[i, actions[i]] = np.float32(slope * weights[i] / num)
    return total / num
