"""What Q is moved towards. Arrays in, arrays out; one function a paper."""

from qfleet.kernels import kernel


@kernel
def best_action(values, mask):
    """The allowed action of the largest value, the first of equals; `mask` (num_actions,) or empty."""
    best = -1
    for action in range(len(values)):
        allowed = len(mask) == 0 or mask[action]
        if allowed and (best < 0 or values[action] > values[best]):
            best = action
    return best


@kernel
def bootstrapped_targets(rewards, discounts, selecting_values, next_values, masks, targets):
    """Fills targets (batch,) with r + discount * Q'(s', argmax_a Q''(s', a)).

    With `selecting_values` = `next_values` = the target network's, (batch, num_actions): DQN (Mnih et al. 2015,
    algorithm 1). With the online network's values selecting: double DQN (van Hasselt et al. 2016, arXiv
    1509.06461, eq. 4). `rewards` and `discounts` (batch,) may be n-step; a terminated transition's discount is 0.
    `masks` is (batch, num_actions) bool, or (batch, 0) where nothing is masked.
    """
    for i in range(len(targets)):
        targets[i] = rewards[i]
        if discounts[i] != 0:
            action = best_action(selecting_values[i], masks[i])
            targets[i] += discounts[i] * next_values[i, action]
