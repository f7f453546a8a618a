"""Greedy episodes that no training step ever saw."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.actor import FrameStacks
from qfleet.deep.learner import Policy
from qfleet.environments.vector import VectorEnvironment

Interrupted = Callable[[], bool]
"""Asked after every step whether to give up."""

PERIODIC, CONFIRMING, FINAL = 1, 2, 3
"""What an evaluation is for: each purpose has episodes of its own, so none that chose a checkpoint judges it."""


@dataclass(frozen=True)
class Evaluation:
    """Returns of greedy episodes."""

    returns: NDArray[np.float64]
    """(episodes,) undiscounted."""
    lengths: NDArray[np.int64]
    """(episodes,) steps."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return."""
        return float(np.std(self.returns) / np.sqrt(len(self.returns)))

    def summary(self) -> dict[str, float | int]:
        """As a run's summary holds it."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": float(np.std(self.returns)),
            "mean_length": float(np.mean(self.lengths)),
        }


def evaluation_seed(seed: int, purpose: int, number: int) -> int:
    """A seed for evaluation environments; training derives its own from another sequence."""
    return int(np.random.SeedSequence([seed, 0x6576616C, purpose, number]).generate_state(1)[0])


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
