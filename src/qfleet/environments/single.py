"""One environment of the many: made from whatever the user handed in, the same in every process."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
from gymnasium import wrappers

from qfleet.environments.atari import FRAME_STACK, AtariPreprocessing
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.identifiers import (
    envpool_ids,
    find_spec,
    import_modules,
    missing_package,
    unknown,
)
from qfleet.environments.spaces import ObservationEncoder, discrete_actions
from qfleet.environments.wrapping import (
    apply_wrappers,
    parse_options,
    parse_wrapper,
    peel_frame_stack,
    wrapper_chain,
)
from qfleet.errors import QfleetError

EnvironmentSource = str | gymnasium.Env | Callable[[], gymnasium.Env]


@dataclass(frozen=True)
class SingleEnvironment:
    """One environment with what is needed to step it: its encoder, actions and frame stack."""

    env: gymnasium.Env
    """Takes actions from `action_start` on; yields single frames."""
    encoder: ObservationEncoder
    num_actions: int
    action_start: int
    """What to add to our actions, which count from 0."""
    frame_stack: int
    name: str

    @property
    def max_episode_steps(self) -> int | None:
        """The shortest time limit around the environment."""
        chain = wrapper_chain(self.env)
        limits = [env._max_episode_steps for env in chain if isinstance(env, wrappers.TimeLimit)]
        return min(limits, default=None)


@dataclass(frozen=True)
class SingleFactory:
    """Makes one environment; travels to other processes by cloudpickle."""

    source: EnvironmentSource
    config: EnvironmentConfig
    training: bool = True
    render_mode: str | None = None

    @property
    def name(self) -> str:
        """The id, or the class or function handed in."""
        if isinstance(self.source, str):
            return self.source.rpartition(":")[2]
        if isinstance(self.source, gymnasium.Env):
            spec = self.source.spec
            return spec.id if spec is not None else type(self.source.unwrapped).__name__
        return getattr(self.source, "__name__", type(self.source).__name__)

    @property
    def is_object(self) -> bool:
        """Whether the environment exists already, and only once."""
        return isinstance(self.source, gymnasium.Env)

    def make(self) -> SingleEnvironment:
        """Makes, wraps and inspects one environment; closes it again where it cannot be used."""
        parsed = tuple(parse_wrapper(text) for text in self.config.wrappers)
        env, frame_stack = self._bare()
        try:
            env, asked_stack = apply_wrappers(env, parsed, training=self.training)
            num_actions, start = discrete_actions(env.action_space, self.name)
            encoder = ObservationEncoder(env.observation_space)
        except BaseException:
            if not self.is_object:
                env.close()
            raise
        return SingleEnvironment(env, encoder, num_actions, start, max(frame_stack, asked_stack), self.name)

    def _bare(self) -> tuple[gymnasium.Env, int]:
        """The environment before `wrappers`, and the frame stack that comes with it."""
        import_modules(self.config.import_modules)
        if isinstance(self.source, str):
            return self._from_id(self.source)
        if self.config.environment_options:
            raise QfleetError(
                f"environment options ({', '.join(self.config.environment_options)}) work with ids only; "
                f"set them where {self.name} is made"
            )
        env = self._own_object() if isinstance(self.source, gymnasium.Env) else self._called()
        # With wrappers around it, the user's stack is no longer the outermost and stays.
        return peel_frame_stack(env) if not self.config.wrappers else (env, 1)

    def _called(self) -> gymnasium.Env:
        env = cast(Callable[[], Any], self.source)()
        if not isinstance(env, gymnasium.Env):
            raise QfleetError(
                f"{self.name}() returned {type(env).__name__}, it should return a gymnasium.Env"
            )
        return env

    def _own_object(self) -> gymnasium.Env:
        """The object itself for training, a copy for anything beside it."""
        if self.training:
            return cast(gymnasium.Env, self.source)
        try:
            return copy.deepcopy(cast(gymnasium.Env, self.source))
        except Exception as error:
            raise QfleetError(
                f"evaluating needs a second {self.name}, and this object cannot be copied; "
                "hand in a function that makes one"
            ) from error

    def _from_id(self, source: str) -> tuple[gymnasium.Env, int]:
        if find_spec(source) is None:
            if self.name in envpool_ids():
                raise QfleetError(
                    f"{self.name} exists in EnvPool only: use the engine envpool, without wrappers"
                )
            raise unknown(self.name)
        is_atari = self.name.startswith("ALE/")
        options = parse_options(self.config.environment_options)
        if self.render_mode is not None:
            options["render_mode"] = self.render_mode
        frameskip = options.pop("frameskip", 4) if is_atari else 0
        if is_atari:
            options["frameskip"] = 1
        env = make_quietly(self.name, options)
        if not is_atari:
            return env, 1
        if options.get("obs_type", "rgb") == "ram":
            return env, 1
        return AtariPreprocessing(env, frameskip), FRAME_STACK


def make_quietly(name: str, options: dict[str, Any]) -> gymnasium.Env:
    """gymnasium.make without the checker of every step, and with errors in one line."""
    try:
        with warnings.catch_warnings():
            # Box2D's import warns of its own making, and crashes the interpreter if that is an error.
            warnings.filterwarnings("ignore", "builtin type [sS]wig", DeprecationWarning)
            return gymnasium.make(name, disable_env_checker=True, **options)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise missing_package(error, name) from error
    except (TypeError, ValueError, AssertionError, gymnasium.error.Error) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items()) or "its own defaults"
        reason = " ".join(str(error).split())[:300]
        raise QfleetError(f"{name} cannot be made with {given}: {reason}") from error
