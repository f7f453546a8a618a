"""Greedy episodes of a table in an environment that is stepped in Python."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.single import EnvironmentSource, SingleEnvironment
from qfleet.errors import QfleetError
from qfleet.evaluation import Evaluation, Interrupted
from qfleet.states.config import StatesConfig
from qfleet.states.encoder import StateEncoder
from qfleet.states.environments import environment_error, episode_seed, mask_of, single_factory


def evaluate(
    source: EnvironmentSource,
    states: StatesConfig,
    encoder: StateEncoder,
    values: NDArray[Any],
    num_episodes: int,
    seed: int,
    max_steps: int,
    interrupted: Interrupted = lambda: False,
) -> Evaluation | None:
    """Plays greedy episodes of at most `max_steps` steps; None if interrupted meanwhile.

    `values` is (rows, num_actions), with two tables their mean. Among equal actions the first is taken, never a masked
    one; rewards are the environment's own. Raises QfleetError for an error of the environment.
    """
    factory = single_factory(source, states, training=False)
    single, returns, lengths = factory.make(), [], []
    choose = _greedy(encoder, values)
    try:
        for episode in range(num_episodes):
            played = _play(single, choose, episode_seed(seed, 0, episode), max_steps, interrupted)
            if played is None:
                return None
            returns.append(played[0])
            lengths.append(played[1])
    except QfleetError:
        raise
    except Exception as error:
        raise environment_error(factory.name, f"evaluation episode {len(returns)}", error) from error
    finally:
        single.env.close()
    return Evaluation(np.array(returns, np.float64), np.array(lengths, np.int64))


def _greedy(encoder: StateEncoder, values: NDArray[Any]) -> Callable[[Any, NDArray[np.bool_] | None], int]:
    """A function from an observation and its mask to the best allowed action."""
    read, tiles = encoder.reader(), np.empty(encoder.num_tilings, np.int64)
    write = encoder.tile_writer(tiles) if encoder.num_tilings else None

    def choose(observation: Any, mask: NDArray[np.bool_] | None) -> int:
        if write is None:
            row = values[read(observation)]
        else:
            write(observation)
            row = values[tiles].sum(axis=0)
        return int(row.argmax() if mask is None else np.where(mask, row, -np.inf).argmax())

    return choose


def _play(
    single: SingleEnvironment,
    choose: Callable[[Any, NDArray[np.bool_] | None], int],
    seed: int,
    max_steps: int,
    interrupted: Interrupted,
) -> tuple[float, int] | None:
    """(return, length) of one episode."""
    observation, info = single.env.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended and length < max_steps:
        action = single.action_start + choose(observation, mask_of(info, single.num_actions))
        observation, reward, terminated, truncated, info = single.env.step(action)
        total, length, ended = total + float(reward), length + 1, terminated or truncated
        if interrupted():
            return None
    return total, length
