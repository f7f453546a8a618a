"""A world: an environment of numbered states whose step and reset are compiled into the learning kernels."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numba.core.dispatcher import Dispatcher

from qfleet.errors import QfleetError
from qfleet.kernels import part

if TYPE_CHECKING:
    from qfleet.worlds.mdp import MDP


@final
@dataclass(frozen=True)
class World:
    """An environment with states 0 to num_states - 1 and actions 0 to num_actions - 1, in jitted functions.

    The functions may be plain Python that numba can compile, or compiled already. `random` is a uniform float64
    in [0, 1), new at each call. Raises QfleetError if sizes are not positive or a function cannot be compiled.
    """

    step: Callable[..., Any]
    """step(parameters, state, action, random) -> (next_state, reward, terminated): int, float, bool."""
    reset: Callable[..., Any]
    """reset(parameters, random) -> the first state of an episode."""
    num_states: int
    num_actions: int
    parameters: tuple[Any, ...] = ()
    """Numbers and arrays that the functions are given, a tuple or a NamedTuple."""
    name: str = "World"
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; None: never."""
    allowed: Callable[..., Any] | None = None
    """allowed(parameters, state, action) -> bool: which actions a state has; None: all of them, everywhere."""
    mdp: "Callable[[], MDP] | None" = None
    """Makes the same world in arrays, so that it can be solved exactly; None where that is not known."""
    reward_threshold: float | None = None
    """Mean greedy return at which a run counts as solved."""
    grid_shape: tuple[int, int] | None = None
    """(rows, columns) where states are the cells of a grid, row by row, and actions are up, down, left, right."""
    approach: Callable[..., Any] | None = None
    """approach(parameters, state) asks for the memory of a step from a state, before it is needed; None: nothing."""
    key: str = field(init=False)
    """Names the functions to the compiler: equal for equal code."""

    def __post_init__(self) -> None:
        for size in ("num_states", "num_actions"):
            if getattr(self, size) < 1:
                raise QfleetError(f"{self.name}: {size} is {getattr(self, size)}; it must be at least 1")
        for name in ("step", "reset", "allowed", "approach"):
            function = getattr(self, name)
            if function is not None:
                plain = function.py_func if isinstance(function, Dispatcher) else function
                object.__setattr__(self, name, part(plain))
        functions = (self.step, self.reset, self.allowed, self.approach)
        object.__setattr__(self, "key", fingerprint(*functions))
        FUNCTIONS[self.key] = functions

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without the key, which is made anew, so that the kernels of another process know it too."""
        return World, (
            self.step,
            self.reset,
            self.num_states,
            self.num_actions,
            self.parameters,
            self.name,
            self.max_episode_steps,
            self.allowed,
            self.mdp,
            self.reward_threshold,
            self.grid_shape,
            self.approach,
        )


FUNCTIONS: dict[str, tuple[Any, ...]] = {}
"""(step, reset, allowed, approach) of every world made in this process, by its key."""


def fingerprint(*functions: Callable[..., Any] | None) -> str:
    """A digest of the functions' code, of what they call and of the constants they refer to.

    Kernels are cached on disk by it: an edited world is compiled anew, an unchanged one is not.
    """
    digest = hashlib.sha256()
    for function in functions:
        _add(digest, function, set())
    return digest.hexdigest()[:20]


def _add(digest: "hashlib._Hash", value: Any, seen: set[int]) -> None:
    if isinstance(value, Dispatcher):
        value = value.py_func
    if id(value) in seen:
        return
    if isinstance(value, CodeType):
        digest.update(value.co_code + repr(value.co_names).encode())
        for constant in value.co_consts:
            _add(digest, constant, seen)
    elif isinstance(value, np.ndarray):
        digest.update(str((value.dtype, value.shape)).encode() + value.tobytes())
    elif isinstance(value, ModuleType):
        digest.update(value.__name__.encode())
    elif callable(value) and hasattr(value, "__code__"):
        seen.add(id(value))
        _add(digest, value.__code__, seen)
        for name in sorted(_names(value.__code__)):
            digest.update(name.encode())
            _add(digest, value.__globals__.get(name), seen)
        for cell in value.__closure__ or ():
            _add(digest, cell.cell_contents, seen)
    else:
        digest.update(f"{type(value).__name__}:{value!r}".encode())


def _names(code: CodeType) -> set[str]:
    """The names that code may look up in its module, those of functions inside it included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))
