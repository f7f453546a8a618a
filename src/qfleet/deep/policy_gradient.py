"""The policy gradient of REINFORCE (Williams 1992; Sutton & Barto 2018, sections 13.3 and 13.4) on arrays.

The policy is a softmax over a network's outputs, the logits. What an episode with returns G_t adds to the objective is

    sum_t w_t * ((G_t - b(S_t)) * log pi(A_t | S_t) + beta * H(pi(. | S_t)))

with w_t = gamma^t, whose gradient's expectation is that of E[G_0] exactly, or w_t = 1, as is usual.
"""

import numpy as np

from qfleet.kernels import STREAM_POLICY, kernel, uniform


@kernel
def log_softmax(logits, mask, result):
    """Fills result (num_actions,) float64 with log pi; -inf for masked actions. `mask` (num_actions,) or empty."""
    largest = -np.inf
    for action in range(len(logits)):
        if len(mask) == 0 or mask[action]:
            largest = max(largest, np.float64(logits[action]))
    total = 0.0
    for action in range(len(logits)):
        if len(mask) == 0 or mask[action]:
            total += np.exp(np.float64(logits[action]) - largest)
    shift = largest + np.log(total)
    for action in range(len(logits)):
        allowed = len(mask) == 0 or mask[action]
        result[action] = np.float64(logits[action]) - shift if allowed else -np.inf


@kernel
def sample_actions(logits, masks, seed, counter, actions):
    """Fills actions (num_envs,) int64 with draws from the softmax of logits (num_envs, num_actions).

    -1 where the logits are not finite. `masks` is of the same shape, or (num_envs, 0). Environment i's draw at
    vector step `counter` depends on (seed, counter, i) alone.
    """
    log_policy = np.empty(logits.shape[1], np.float64)
    for i in range(len(actions)):
        log_softmax(logits[i], masks[i], log_policy)
        left = uniform(seed, STREAM_POLICY, counter, i)
        chosen = np.int64(-1)
        for action in range(len(log_policy)):
            probability = np.exp(log_policy[action])
            if probability > 0:  # the last such action is taken where rounding leaves something over
                chosen = np.int64(action)
                left -= probability
                if left < 0:
                    break
        actions[i] = chosen


@kernel
def returns_to_go(rewards, lengths, final_values, discount, returns):
    """Fills returns (num_steps,) float64 with G_t = r_{t+1} + discount * G_{t+1}, episode by episode.

    `rewards` (num_steps,) holds the episodes one after another, `lengths` (num_episodes,) their steps;
    `final_values` (num_episodes,) is what follows an episode's last reward: 0 where it terminated.
    """
    end = 0
    for episode in range(len(lengths)):
        start, end = end, end + lengths[episode]
        following = final_values[episode]
        for t in range(end - 1, start - 1, -1):
            following = rewards[t] + discount * following
            returns[t] = following


@kernel
def state_weights(lengths, discount, discount_states, weights):
    """Fills weights (num_steps,) float64 with gamma^t, t counted from each episode's start, or with 1."""
    step = 0
    for episode in range(len(lengths)):
        weight = 1.0
        for _ in range(lengths[episode]):
            weights[step] = weight
            step += 1
            if discount_states:
                weight *= discount


@kernel
def policy_loss(logits, masks, actions, advantages, weights, entropy_coefficient, num_episodes, logit_deltas):
    """(loss, entropy): minus the objective's part of these steps, over num_episodes; the sum of their entropies.

    `logits` (steps, num_actions), `masks` the same or (steps, 0), `actions`, `advantages` and `weights` (steps,).
    `logit_deltas` (steps, num_actions) float32 receives the loss's gradient with respect to the logits:
    d log pi(a) / d z_k = [k = a] - pi_k and dH / d z_k = -pi_k * (log pi_k + H); 0 for masked actions.
    """
    num_actions = logits.shape[1]
    log_policy = np.empty(num_actions, np.float64)
    loss, entropies = 0.0, 0.0
    for i in range(len(actions)):
        log_softmax(logits[i], masks[i], log_policy)
        entropy = 0.0
        for k in range(num_actions):
            if log_policy[k] > -np.inf:
                entropy -= np.exp(log_policy[k]) * log_policy[k]
        scale = weights[i] / num_episodes
        loss -= scale * (advantages[i] * log_policy[actions[i]] + entropy_coefficient * entropy)
        entropies += entropy
        for k in range(num_actions):
            slope = 0.0
            if log_policy[k] > -np.inf:
                probability = np.exp(log_policy[k])
                slope = advantages[i] * ((1.0 if k == actions[i] else 0.0) - probability)
                slope -= entropy_coefficient * probability * (log_policy[k] + entropy)
            logit_deltas[i, k] = np.float32(-scale * slope)
    return loss, entropies


@kernel
def baseline_loss(values, returns, num_episodes, value_deltas):
    """Sum of (G - b)^2 / 2 over num_episodes, of values (steps, 1) and returns (steps,).

    Fills value_deltas (steps, 1) float32 with its gradient with respect to the values. Not weighted by gamma^t:
    a baseline wants to be right wherever it is asked (Sutton & Barto 2018, section 13.4).
    """
    loss = 0.0
    for i in range(len(returns)):
        error = returns[i] - np.float64(values[i, 0])
        loss += error * error / 2 / num_episodes
        value_deltas[i, 0] = np.float32(-error / num_episodes)
    return loss
