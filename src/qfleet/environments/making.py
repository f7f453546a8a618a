"""From what the user names or hands in to environments that step together, on the engine that suits them."""

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from qfleet.environments.ale import OPTIONS as ALE_OPTIONS
from qfleet.environments.ale import make_ale
from qfleet.environments.atari import MAX_EPISODE_STEPS
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.envpool import EnvPoolEnvironment, envpool_spec
from qfleet.environments.identifiers import envpool_ids, find_spec, import_modules, unknown
from qfleet.environments.in_process import InProcessEnvironment
from qfleet.environments.processes import ProcessEnvironment
from qfleet.environments.registered import RegisteredEnvironment, make_registered
from qfleet.environments.single import EnvironmentSource, SingleEnvironment, SingleFactory
from qfleet.environments.spaces import ObservationEncoder, discrete_actions
from qfleet.environments.state import save_environment
from qfleet.environments.vector import ObservationLayout, VectorEnvironment
from qfleet.environments.wrapping import parse_options
from qfleet.errors import QfleetError

SLOW_STEP_SECONDS = 1e-3
"""Above this, waking another process costs less than stepping in turn."""

LEAST_VECTOR_ENVS = 4
"""For fewer, NumPy's fixed cost a call is more than that of stepping them in turn."""


@dataclass(frozen=True)
class EnvironmentDescription:
    """What is known of an environment before it is stepped."""

    name: str
    reward_threshold: float | None
    max_episode_steps: int | None
    num_actions: int
    layout: ObservationLayout
    frame_stack: int
    masks_actions: bool
    """Whether some actions are not allowed in some states."""


def make(
    environment: EnvironmentSource,
    config: EnvironmentConfig,
    *,
    training: bool = True,
    render_mode: str | None = None,
) -> VectorEnvironment:
    """Environments that step together; close them when done.

    `environment` is an id (also "module:Id"), a gymnasium.Env (then there is one environment, in this
    process), or a function without arguments that makes one. Without `training`, wrappers of the reward
    are left off, and of an object a copy is used. Raises QfleetError for whatever cannot be run.
    """
    factory = SingleFactory(environment, config, training, render_mode)
    import_modules(config.import_modules)
    if factory.is_object:
        return _of_object(factory, config)
    engine = config.engine if config.engine != "auto" else pick_engine(factory)
    if render_mode is not None and engine != "in-process":
        if config.engine != "auto":
            raise QfleetError(f"the engine {engine} does not draw; the engine in-process does")
        engine = "in-process"
    return _on_engine(engine, factory, config)


def pick_engine(factory: SingleFactory) -> str:
    """The engine that `auto` stands for."""
    plain = not factory.config.wrappers and factory.render_mode is None
    if isinstance(factory.source, str):
        spec = find_spec(factory.source)
        if spec is None:
            if factory.name not in envpool_ids():
                raise unknown(factory.name)
            return "envpool"
        options = parse_options(factory.config.environment_options)
        if plain and factory.name.startswith("ALE/") and set(options) <= set(ALE_OPTIONS):
            return "ale"
        worth_it = spec.vector_entry_point is not None and factory.config.num_envs >= LEAST_VECTOR_ENVS
        if spec.entry_point is None or (plain and not options and worth_it):
            return "ale" if factory.name.startswith("ALE/") else "registered"
    return "processes" if factory.config.num_envs > 1 and _is_slow(factory) else "in-process"


def steps_in_python(environment: EnvironmentSource, config: EnvironmentConfig) -> bool:
    """Whether every environment is stepped by Python code of its own, as far as can be said without making one."""
    if config.engine not in ("auto", "in-process"):
        return False
    if not isinstance(environment, str):
        return True
    name = SingleFactory(environment, config).name
    import_modules(config.import_modules)
    spec = find_spec(environment)
    if spec is None or spec.entry_point is None or name.startswith("ALE/"):
        return False
    return spec.vector_entry_point is None or config.num_envs < LEAST_VECTOR_ENVS


def _is_slow(factory: SingleFactory, num_steps: int = 7) -> bool:
    """Whether the median step of one environment takes more than a millisecond, and there are cores."""
    if (os.cpu_count() or 1) == 1:
        return False
    single = factory.make()
    try:
        _, info = single.env.reset(seed=0)
        if save_environment(single.env) is not None and not factory.name.startswith("ALE/"):
            return False
        return float(np.median(_step_seconds(single, info, num_steps))) > SLOW_STEP_SECONDS
    finally:
        single.env.close()


def _step_seconds(single: SingleEnvironment, info: dict[str, Any], num_steps: int) -> list[float]:
    """How long each of some steps took, with the first action that is allowed."""
    seconds = []
    for _ in range(num_steps):
        action = int(np.argmax(info.get("action_mask", [True])))
        start = time.perf_counter()
        _, _, terminated, truncated, info = single.env.step(np.int64(single.action_start + action))
        seconds.append(time.perf_counter() - start)
        if terminated or truncated:
            _, info = single.env.reset()
    return seconds


def _of_object(factory: SingleFactory, config: EnvironmentConfig) -> VectorEnvironment:
    if config.num_envs not in (1, EnvironmentConfig.num_envs):
        raise QfleetError(
            f"{config.num_envs} environments of one object {factory.name} cannot be; hand in a function that "
            "makes one"
        )
    if config.engine not in ("auto", "in-process"):
        raise QfleetError(f"the engine {config.engine} cannot run an object {factory.name}; in-process does")
    return InProcessEnvironment(factory, 1)


def _on_engine(engine: str, factory: SingleFactory, config: EnvironmentConfig) -> VectorEnvironment:
    if engine == "in-process":
        return InProcessEnvironment(factory, config.num_envs)
    if engine == "processes":
        probe = factory.make()
        probe.env.close()
        return ProcessEnvironment(
            factory, probe, config.num_envs, config.num_processes, config.step_timeout_seconds
        )
    name = _whole_engine_name(engine, factory)
    options = parse_options(config.environment_options)
    if engine == "envpool":
        return EnvPoolEnvironment(name, config.num_envs, options)
    spec = find_spec(str(factory.source))
    if spec is None:
        raise unknown(name)
    if engine == "ale":
        return make_ale(spec.id, config.num_envs, options)
    if name.startswith("ALE/"):
        raise QfleetError(f"{name} runs on the engine ale, in-process or processes, not on registered")
    return RegisteredEnvironment(make_registered(spec.id, config.num_envs, options), spec.id)


def _whole_engine_name(engine: str, factory: SingleFactory) -> str:
    """The id for an engine that makes whole batches itself, and so can be given neither code nor wrappers."""
    if not isinstance(factory.source, str):
        raise QfleetError(
            f"the engine {engine} needs an id, not {factory.name}; in-process and processes run it"
        )
    if factory.config.wrappers:
        raise QfleetError(
            f"the engine {engine} cannot wrap {factory.name} in {', '.join(factory.config.wrappers)}; "
            "in-process and processes can"
        )
    return factory.name


def describe(environment: EnvironmentSource, config: EnvironmentConfig) -> EnvironmentDescription:
    """What there is to know before training; leaves nothing behind."""
    factory = SingleFactory(environment, config)
    import_modules(config.import_modules)
    if isinstance(environment, str):
        if config.engine == "envpool":
            return _describe_envpool(factory)
        spec = find_spec(environment)
        if spec is None and factory.name in envpool_ids():
            return _describe_envpool(factory)
        if spec is not None and spec.entry_point is None:
            return _describe_registered(factory)
    single = factory.make()
    try:
        _, info = single.env.reset(seed=0)
        spec = single.env.spec
        limit = single.max_episode_steps
        return EnvironmentDescription(
            name=factory.name if spec is None else spec.id,
            reward_threshold=None if spec is None else spec.reward_threshold,
            max_episode_steps=MAX_EPISODE_STEPS
            if limit is None and factory.name.startswith("ALE/")
            else limit,
            num_actions=single.num_actions,
            layout=single.encoder.layout,
            frame_stack=single.frame_stack,
            masks_actions="action_mask" in info,
        )
    finally:
        if not factory.is_object:
            single.env.close()


def _describe_envpool(factory: SingleFactory) -> EnvironmentDescription:
    options = parse_options(factory.config.environment_options)
    spec = envpool_spec(factory.name, options)
    return EnvironmentDescription(
        name=factory.name,
        reward_threshold=getattr(spec.config, "reward_threshold", None),
        max_episode_steps=spec.config.max_episode_steps,
        num_actions=discrete_actions(spec.action_space, factory.name)[0],
        layout=ObservationEncoder(spec.observation_space).layout,
        frame_stack=spec.frame_stack,
        masks_actions=False,
    )


def _describe_registered(factory: SingleFactory) -> EnvironmentDescription:
    """For ids that register a vector environment and no single one."""
    vector = _on_engine("registered", factory, replace(factory.config, num_envs=1))
    _, masks = vector.reset(0)
    vector.close()
    spec = gymnasium.spec(factory.name)
    return EnvironmentDescription(
        factory.name,
        spec.reward_threshold,
        spec.max_episode_steps,
        vector.num_actions,
        vector.layout,
        vector.frame_stack,
        masks is not None,
    )


def make_single(
    environment: EnvironmentSource, config: EnvironmentConfig, render_mode: str | None = None
) -> SingleEnvironment:
    """One environment for watching: rewards are its own, `render_mode` is given to it; close its `env`.

    The player encodes with `encoder.encode`, stacks `frame_stack` frames, and adds `action_start` to actions.
    """
    single = SingleFactory(environment, config, training=False, render_mode=render_mode).make()
    if render_mode is not None and single.env.render_mode != render_mode:
        known = ", ".join(single.env.metadata.get("render_modes") or []) or "none"
        if not isinstance(environment, gymnasium.Env):
            single.env.close()
        raise QfleetError(f"{single.name} cannot be drawn as {render_mode!r}; it offers: {known}")
    return single
