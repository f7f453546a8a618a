"""Greedy episodes of a network."""

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.actor import FrameStacks
from qfleet.deep.learner import Policy
from qfleet.environments.vector import VectorEnvironment
from qfleet.evaluation import Evaluation, Interrupted


def evaluate(
    environment: VectorEnvironment,
    policy: Policy,
    num_episodes: int,
    seed: int,
    max_steps: int,
    interrupted: Interrupted = lambda: False,
) -> Evaluation | None:
    """Plays `num_episodes` greedy episodes of at most `max_steps` steps each; None if interrupted meanwhile.

    They run in waves of one episode an environment: every episode started is counted, long ones as much as
    short ones.
    """
    returns, lengths = [], []
    for wave in range(-(-num_episodes // environment.num_envs)):
        wave_seed = int(np.random.SeedSequence([seed, wave]).generate_state(1)[0])
        wave_returns, wave_lengths = _play_wave(environment, policy, wave_seed, max_steps, interrupted)
        if interrupted():
            return None
        returns.append(wave_returns)
        lengths.append(wave_lengths)
    return Evaluation(np.concatenate(returns)[:num_episodes], np.concatenate(lengths)[:num_episodes])


def _play_wave(
    environment: VectorEnvironment, policy: Policy, seed: int, max_steps: int, interrupted: Interrupted
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    num_envs, layout = environment.num_envs, environment.layout
    stacks = FrameStacks(num_envs, environment.frame_stack, layout.size, layout.dtype)
    observations, masks = environment.reset(seed)
    started = np.ones(num_envs, np.bool_)
    returns, lengths, playing = np.zeros(num_envs), np.zeros(num_envs, np.int64), started.copy()
    nothing_masked = np.ones((num_envs, 0), np.bool_)
    for _ in range(max_steps):
        stacks.push(observations.reshape(num_envs, -1), started)
        actions = policy.act(stacks.stacked, nothing_masked if masks is None else masks, 0.0, 0, 0)
        step = environment.step(actions)
        returns += np.where(playing, step.rewards, 0)
        lengths += playing
        playing &= ~(step.terminated | step.truncated)
        if not playing.any() or interrupted():
            break
        observations, masks, started = step.observations, step.action_masks, step.started
    return returns, lengths
