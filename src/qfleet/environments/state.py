"""The exact state of one environment as plain arrays: what a resumed run continues from."""

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from numpy.typing import NDArray

from qfleet.environments.atari import AtariPreprocessing
from qfleet.environments.wrapping import wrapper_chain

_TRANSPARENT = (wrappers.OrderEnforcing, wrappers.PassiveEnvChecker, wrappers.TimeLimit)

# Class -> the attributes that its next steps depend on, besides its random state.
_ATTRIBUTES = {
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv": ("state", "steps_beyond_terminated"),
    "gymnasium.envs.classic_control.acrobot:AcrobotEnv": ("state",),
    "gymnasium.envs.classic_control.mountain_car:MountainCarEnv": ("state",),
    "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv": ("s", "lastaction"),
    "gymnasium.envs.toy_text.cliffwalking:CliffWalkingEnv": ("s", "lastaction"),
    "gymnasium.envs.toy_text.taxi:TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
    "gymnasium.envs.toy_text.blackjack:BlackjackEnv": ("dealer", "player"),
    "qfleet.worlds.gymnasium_env:WorldEnv": ("state",),
}
_ATARI = "ale_py.env:AtariEnv"
_WORD = (1 << 64) - 1


def generator_state(generator: np.random.Generator) -> NDArray[np.uint64]:
    """(6,): PCG64's state and increment as high and low words, then its spare half word."""
    state: Any = generator.bit_generator.state
    words = [part for key in ("state", "inc") for part in divmod(state["state"][key], _WORD + 1)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64)


def restored_generator(words: NDArray[np.uint64]) -> np.random.Generator:
    """The generator that `generator_state` described."""
    high, low, increment_high, increment_low, has_half, half = (int(word) for word in words)
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": increment_high << 64 | increment_low},
        "has_uint32": has_half,
        "uinteger": half,
    }
    return np.random.Generator(bits)


def save_environment(env: gymnasium.Env) -> dict[str, NDArray] | None:
    """Arrays that `load_environment` continues from; None for an environment or wrapper not known exactly."""
    *around, bare = wrapper_chain(env)
    kind = f"{type(bare).__module__}:{type(bare).__name__}"
    known = (*_TRANSPARENT, AtariPreprocessing) if kind == _ATARI else _TRANSPARENT
    if any(type(wrapper) not in known for wrapper in around):
        return None
    if kind not in _ATTRIBUTES and kind != _ATARI:
        return None
    if not isinstance(bare.np_random.bit_generator, np.random.PCG64):
        return None
    limits = [w._elapsed_steps for w in around if isinstance(w, wrappers.TimeLimit)]
    state = {
        "random": generator_state(bare.np_random),
        "elapsed_steps": np.array([-1 if elapsed is None else elapsed for elapsed in limits], np.int64),
    }
    if kind == _ATARI:
        return state | _save_atari(bare)
    values = {name: getattr(bare, name, None) for name in _ATTRIBUTES[kind]}
    return state | {name: np.asarray(value) for name, value in values.items() if value is not None}


def load_environment(env: gymnasium.Env, state: dict[str, NDArray]) -> None:
    """Puts `env`, a newly made environment of the same kind, where the saved one was."""
    *around, bare = wrapper_chain(env)
    elapsed = iter(state["elapsed_steps"].tolist())
    for wrapper in around:
        if isinstance(wrapper, wrappers.TimeLimit):
            steps = next(elapsed)
            wrapper._elapsed_steps = None if steps < 0 else steps
        elif isinstance(wrapper, wrappers.OrderEnforcing):
            wrapper._has_reset = True
    kind = f"{type(bare).__module__}:{type(bare).__name__}"
    if kind == _ATARI:
        _load_atari(bare, state)
    else:
        for name in _ATTRIBUTES[kind]:
            setattr(bare, name, _restored(state.get(name)))
    bare.np_random = restored_generator(state["random"])


def _restored(array: NDArray | None) -> Any:
    """Floats as the array they were, whole numbers and flags as Python's own (lists for several)."""
    if array is None:
        return None
    return array.copy() if array.dtype.kind == "f" else array.tolist()


def _save_atari(bare: Any) -> dict[str, NDArray]:
    return {"system": np.frombuffer(bare.clone_state(include_rng=True).__getstate__(), np.uint8).copy()}


def _load_atari(bare: Any, state: dict[str, NDArray]) -> None:
    bare.reset(seed=0)
    bare.restore_state(importlib.import_module("ale_py").ALEState(state["system"].tobytes()))
