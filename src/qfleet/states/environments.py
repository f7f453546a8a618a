"""One environment that a table is learned from: how it is made, seeded, reset, and what its errors say."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.checks import checked_mask
from qfleet.environments.identifiers import import_modules
from qfleet.environments.single import EnvironmentSource, SingleEnvironment, SingleFactory
from qfleet.errors import QfleetError
from qfleet.states.config import StatesConfig
from qfleet.states.leaves import box_values, leaves_of

PLAYED_STEPS = 10_000
"""Random steps that the borders of bins are taken from."""


def single_factory(
    source: EnvironmentSource, config: StatesConfig, *, training: bool = True
) -> SingleFactory:
    """What makes each of the run's environments."""
    made, limit = config.environments(), config.max_episode_steps
    if limit and isinstance(source, str):
        options = (*made.environment_options, f"max_episode_steps={limit}")
        made = replace(made, environment_options=options)
    elif limit:
        made = replace(made, wrappers=(*made.wrappers, f"TimeLimit={limit}"))
    import_modules(config.import_modules)
    return SingleFactory(source, made, training)


def episode_seed(seed: int, walker: int, episode: int) -> int:
    """31 bits for a walker's reset: its first, and after a checkpoint that could not hold its environment."""
    return int(np.random.SeedSequence([seed, walker, episode]).generate_state(1)[0]) & 0x7FFFFFFF


def environment_error(name: str, what: str, error: Exception) -> QfleetError:
    """One line for an error that the environment raised; to be raised from it, which keeps its traceback."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return QfleetError(f"{name}: {what} raised {reason}")


def mask_of(info: dict[str, Any], num_actions: int) -> NDArray[np.bool_] | None:
    """(num_actions,) which actions an observation allows; None: all."""
    mask = info.get("action_mask")
    return None if mask is None else np.asarray(checked_mask(mask, num_actions)).astype(np.bool_)


def played_values(single: SingleEnvironment, seed: int) -> NDArray[np.float64]:
    """(PLAYED_STEPS, Box dimensions): the coordinates of observations in random play; the same for the same seed.

    Raises QfleetError for an error of the environment.
    """
    leaves, generator = leaves_of(single.env.observation_space), np.random.default_rng(seed)
    samples = []
    try:
        observation, info = single.env.reset(seed=episode_seed(seed, 0, 0))
        while len(samples) < PLAYED_STEPS:
            samples.append(box_values(observation, leaves))
            mask = mask_of(info, single.num_actions)
            allowed = np.arange(single.num_actions) if mask is None else np.flatnonzero(mask)
            action = single.action_start + int(generator.choice(allowed))
            observation, _, terminated, truncated, info = single.env.step(action)
            if terminated or truncated:
                observation, info = single.env.reset()
    except QfleetError:
        raise
    except Exception as error:
        raise environment_error(single.name, f"random play, step {len(samples)},", error) from error
    values = np.array(samples)
    if not np.isfinite(values).all():
        raise QfleetError(f"{single.name}: random play met an observation that is not finite")
    return values
