"""Gymnasium's wrappers, named in text, and the one wrapper that is taken off again: the frame stack."""

import ast
import difflib
import inspect
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers

from qfleet.environments.identifiers import missing_package
from qfleet.errors import QfleetError

_OBSERVATION = (
    "AddWhiteNoise",
    "DelayObservation",
    "DiscretizeObservation",
    "DtypeObservation",
    "FilterObservation",
    "FlattenObservation",
    "FrameStackObservation",
    "GrayscaleObservation",
    "MaxAndSkipObservation",
    "ObstructView",
    "RescaleObservation",
    "ReshapeObservation",
    "ResizeObservation",
    "TimeAwareObservation",
)
_REWARD = ("ClipReward", "NormalizeReward")
_OTHER = ("DiscretizeAction", "RepeatAction", "StickyAction", "TimeLimit")
SUPPORTED = tuple(sorted((*_OBSERVATION, *_REWARD, *_OTHER)))


@dataclass(frozen=True)
class WrapperText:
    """One parsed wrapper: its class name and arguments."""

    name: str
    arguments: dict[str, Any]

    def wrap(self, env: gymnasium.Env) -> gymnasium.Env:
        """The environment with the wrapper around it; QfleetError where it does not fit."""
        try:
            return getattr(wrappers, self.name)(env, **self.arguments)
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            raise missing_package(error, f"wrapper {self.name}") from error
        except (AssertionError, TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise QfleetError(f"wrapper {self.name} does not fit the environment: {reason}") from error


def parse_value(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` texts as keyword arguments."""
    return {key: parse_value(value) for key, _, value in (option.partition("=") for option in options)}


def parse_wrapper(text: str) -> WrapperText:
    """`Name`, `Name=value` or `Name=key:value,key:value`; QfleetError with the nearest names otherwise."""
    name, _, given = text.partition("=")
    if name not in SUPPORTED:
        near = difflib.get_close_matches(name, SUPPORTED, n=3) or SUPPORTED
        why = "cannot be said in text; wrap it in Python" if name in wrappers.__all__ else "is unknown"
        raise QfleetError(f"wrapper {name!r} {why}; in text these work: {', '.join(near)}")
    signature = inspect.signature(getattr(wrappers, name).__init__)
    parameters = [parameter for parameter in signature.parameters if parameter not in ("self", "env")]
    arguments = _arguments(given, parameters) if given else {}
    try:
        signature.bind(None, None, **arguments)
    except TypeError as error:
        raise QfleetError(f"wrapper {text!r}: {error}; it takes {', '.join(parameters)}") from error
    if name == "DtypeObservation":
        arguments["dtype"] = np.dtype(arguments["dtype"]).type
    return WrapperText(name, arguments)


def _arguments(given: str, parameters: list[str]) -> dict[str, Any]:
    """Splits at the commas that stand outside brackets; one value without a key is the first parameter's."""
    parts, depth = [""], 0
    for character in given:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    pairs = [part.partition(":") for part in parts]
    if all(separator and key.strip().isidentifier() for key, separator, _ in pairs):
        return {key.strip(): parse_value(value) for key, _, value in pairs}
    return {parameters[0]: parse_value(given)} if parameters else {"value": given}


def apply_wrappers(
    env: gymnasium.Env, parsed: tuple[WrapperText, ...], *, training: bool
) -> tuple[gymnasium.Env, int]:
    """Wraps `env`, innermost first; returns it with the frame stack that its consumer is to make.

    Wrappers of the reward are for learning: without `training` they are left off, so that the returns are
    the environment's own.
    """
    for wrapper in parsed:
        if training or wrapper.name not in _REWARD:
            env = wrapper.wrap(env)
    return peel_frame_stack(env)


def peel_frame_stack(env: gymnasium.Env) -> tuple[gymnasium.Env, int]:
    """Takes an outermost FrameStackObservation that pads with the first frame off: (single frames, k)."""
    if type(env) is wrappers.FrameStackObservation and env.padding_type == "reset":
        return env.env, env.stack_size
    return env, 1


def wrapper_chain(env: gymnasium.Env) -> list[gymnasium.Env]:
    """The environment's wrappers from the outermost in, and the bare environment last."""
    chain = [env]
    while isinstance(chain[-1], gymnasium.Wrapper):
        chain.append(chain[-1].env)
    return chain
