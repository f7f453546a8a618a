"""Adam and gradient clipping on flat vectors."""

import math

import numpy as np

from qfleet.kernels import kernel


@kernel
def global_norm(gradient):
    """The Euclidean norm of a flat gradient (num_parameters,)."""
    total = 0.0
    for i in range(len(gradient)):
        total += np.float64(gradient[i]) * np.float64(gradient[i])
    return math.sqrt(total)


@kernel
def adam_step(parameters, gradient, first, second, num_updates, learning_rate, epsilon, max_norm, norm):
    """The same for some of the parameters, where the whole gradient's norm is known, and finite."""
    factor = np.float32(max_norm / (norm + 1e-6)) if norm > max_norm else np.float32(1)
    step_size = np.float32(learning_rate / (1.0 - 0.9**num_updates))
    correction = np.float32(1.0 / math.sqrt(1.0 - 0.999**num_updates))
    small = np.float32(epsilon)
    # 1 - 0.999 in float32 would be 1e-5 off.
    decay_1, decay_2, rest_1, rest_2 = np.float32(0.9), np.float32(0.999), np.float32(0.1), np.float32(0.001)
    for i in range(len(parameters)):
        g = gradient[i] * factor
        first[i] = decay_1 * first[i] + rest_1 * g
        second[i] = decay_2 * second[i] + rest_2 * g * g
        parameters[i] -= step_size * first[i] / (np.sqrt(second[i]) * correction + small)


@kernel
def adam(parameters, gradient, first, second, num_updates, learning_rate, epsilon, max_norm):
    """One step of Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1) in place; betas 0.9 and 0.999.

    The gradient (num_parameters,) is scaled down to norm `max_norm` first, if that is finite and it is longer.
    `num_updates` counts this step, from 1. Returns the norm before clipping; where that is not finite, nothing
    is changed.
    """
    norm = global_norm(gradient)
    if np.isfinite(norm):
        adam_step(parameters, gradient, first, second, num_updates, learning_rate, epsilon, max_norm, norm)
    return norm


@kernel
def move_towards(target, parameters, rate):
    """target <- rate * parameters + (1 - rate) * target, in place; rate 1 copies exactly."""
    if rate >= 1.0:
        target[:] = parameters
        return
    rate32 = np.float32(rate)
    for i in range(len(target)):
        target[i] += rate32 * (parameters[i] - target[i])
