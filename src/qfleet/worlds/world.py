"""A world: an environment of numbered states whose step and reset are compiled into the learning kernels."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.kernels import callable_part, part
from qfleet.worlds.fingerprint import fingerprint

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
    successors: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    """successors(states) -> the states that one step from any of them can lead to, each once; None: not known."""
    approach: Callable[..., Any] | None = None
    """approach(parameters, state) asks for the memory of a step from a state, before it is needed; None: nothing."""
    key: str = field(init=False)
    """Names the functions to the compiler: equal for equal code."""

    def __post_init__(self) -> None:
        self._refuse_wrong_values()
        parts = []
        for name, arguments in _ARGUMENTS.items():
            function = getattr(self, name)
            plain = function.py_func if isinstance(function, Dispatcher) else function
            if plain is not None:
                _refuse_wrong_arguments(self.name, name, plain, arguments)
                object.__setattr__(self, name, callable_part(plain))
            parts.append(None if plain is None else part(plain))
        object.__setattr__(self, "key", fingerprint(*parts))
        FUNCTIONS[self.key] = tuple(parts)

    def _refuse_wrong_values(self) -> None:
        limit = () if self.max_episode_steps is None else ("max_episode_steps",)
        for size in ("num_states", "num_actions", *limit):
            value = getattr(self, size)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise QfleetError(
                    f"{self.name}: {size} is {value!r}; it must be a whole number of at least 1"
                )
        if not isinstance(self.parameters, tuple):
            raise QfleetError(
                f"{self.name}: parameters is a {type(self.parameters).__name__}; it must be a tuple or a NamedTuple "
                "of numbers and arrays"
            )
        if self.grid_shape is not None and np.prod(self.grid_shape) != self.num_states:
            raise QfleetError(f"{self.name}: grid_shape {self.grid_shape} has no {self.num_states} cells")

    def check(self) -> None:
        """Compiles the functions and makes some steps; QfleetError names what is wrong, in one line.

        See `qfleet.worlds.checks.check_world`.
        """
        from qfleet.worlds.checks import check_world

        check_world(self)

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
            self.successors,
            self.approach,
        )


FUNCTIONS: dict[str, tuple[Any, ...]] = {}
"""(step, reset, allowed, approach) of every world made in this process, by its key, for kernels."""

_ARGUMENTS = {
    "step": ("parameters", "state", "action", "random"),
    "reset": ("parameters", "random"),
    "allowed": ("parameters", "state", "action"),
    "approach": ("parameters", "state"),
}


def _refuse_wrong_arguments(world: str, name: str, function: Any, arguments: tuple[str, ...]) -> None:
    if not inspect.isfunction(function):
        raise QfleetError(
            f"{world}: {name} is a {type(function).__name__}; it must be a plain or jitted function"
        )
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError:
        raise QfleetError(
            f"{world}: {name} is {function.__name__}{signature}; it must take ({', '.join(arguments)})"
        ) from None
