"""Whether a user's world compiles and behaves, found out before a run rather than during it."""

import math
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

from qfleet.errors import NonFiniteError, QfleetError
from qfleet.kernels import borrowing_kernel
from qfleet.tabular.program import Program, dispatched
from qfleet.tabular.walk import reset, step
from qfleet.worlds.world import FUNCTIONS, World

NUM_STEPS = 200

_NO_ALLOCATION = (
    "it makes an array or another object, which a world's functions cannot: put arrays into parameters, and "
    "compute with numbers"
)

_ALLOCATES = ("NRT required", "Only accept returning of array passed into the function")
"""What numba says of a function that may not allocate and would."""

_NOISE = ("Failed in", "During:", "There ", "- Of which", "Overload")
"""How lines begin that speak of numba's own workings."""


@dispatched(lambda program: _allowed_of(program))
def _allowed_part(program, parameters, state, action) -> Any:
    raise NotImplementedError


def _allowed_of(program: Program) -> Any:
    function = FUNCTIONS[program.world][2]
    return lambda program, parameters, state, action: function(parameters, state, action)


@borrowing_kernel
def _reset(program, parameters, random):
    return reset(program, parameters, random)


@borrowing_kernel
def _step(program, parameters, state, action, random):
    return step(program, parameters, state, action, random)


@borrowing_kernel
def _allowed(program, parameters, state, action):
    return _allowed_part(program, parameters, state, action)


def check_world(world: World) -> None:
    """Compiles a world's functions and makes 200 steps with random actions, the same every time.

    Raises QfleetError, in one line that names the function, where numba cannot compile it, or it returns what it
    should not: a first or next state that is no whole number in [0, num_states), a reward that is no number
    (NonFiniteError: NaN or infinite), a `terminated` that is no bool, a state without an allowed action.
    """
    masked = world.allowed is not None
    program = Program(world.key, "q-learning", "uniform", "constant", masked, False, "whole", False)
    random = np.random.default_rng(0)
    state, age = _first_state(world, program, random.random()), 0
    for _ in range(NUM_STEPS):
        action = _some_action(world, program, state, random)
        made = _called(world, "step", _step, program, world.parameters, state, action, random.random())
        state = _checked_step(world, state, action, made)
        age += 1
        if made[2] or age == world.max_episode_steps:
            state, age = _first_state(world, program, random.random()), 0


def _first_state(world: World, program: Program, random: float) -> int:
    state = _called(world, "reset", _reset, program, world.parameters, random)
    return _checked_state(world, state, "reset returned")


def _some_action(world: World, program: Program, state: int, random: np.random.Generator) -> int:
    if world.allowed is None:
        return int(random.integers(world.num_actions))
    has = [
        action
        for action in range(world.num_actions)
        if _called(world, "allowed", _allowed, program, world.parameters, state, action)
    ]
    if not has:
        raise QfleetError(f"{world.name}: allowed gives state {state} no action; every state must have one")
    return int(random.choice(has))


def _called(world: World, name: str, kernel: Any, *arguments: Any) -> Any:
    """What a compiled function of the world returns."""
    try:
        return kernel(*arguments)
    except NumbaError as error:
        raise _explained(world, name, arguments[1:], str(error)) from None
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise QfleetError(f"{_label(world, name)} cannot be compiled: {_one_line(str(error))}") from error


def _checked_step(world: World, state: int, action: int, made: Any) -> int:
    what = f"step returned {made!r} from state {state} with action {action}"
    if not isinstance(made, tuple) or len(made) != 3:
        raise QfleetError(f"{world.name}: {what}; it must return (next_state, reward, terminated)")
    next_state, reward, terminated = made
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        raise QfleetError(f"{world.name}: {what}; the reward must be a number")
    if not math.isfinite(reward):
        raise NonFiniteError(f"{world.name}: {what}; the reward must be finite")
    if terminated not in (0, 1):
        raise QfleetError(f"{world.name}: {what}; terminated must be a bool")
    return _checked_state(world, next_state, what + "; next_state is")


def _checked_state(world: World, state: Any, what: str) -> int:
    if isinstance(state, bool) or not isinstance(state, int):
        raise QfleetError(
            f"{world.name}: {what} {state!r}; a state must be a whole number, as np.int64(x) makes it"
        )
    if not 0 <= state < world.num_states:
        raise QfleetError(f"{world.name}: {what} {state}; states are 0 to {world.num_states - 1}")
    return state


def _explained(world: World, name: str, arguments: tuple[Any, ...], message: str) -> QfleetError:
    """The reason of numba's that speaks of the user's own lines, rather than of the kernel around them."""
    try:
        getattr(world, name)(*arguments)
    except NumbaError as error:
        message = str(error)
    reason = _NO_ALLOCATION if any(sign in message for sign in _ALLOCATES) else _reason(message)
    return QfleetError(f"{_label(world, name)} cannot be compiled: {reason}")


def _label(world: World, name: str) -> str:
    return f"{world.name}: {name} ({getattr(world, name).__name__})"


def _reason(message: str) -> str:
    """One line of numba's many: what it could not do, and in which line of which file."""
    lines = [line.strip() for line in message.splitlines()]
    places = [i for i, line in enumerate(lines) if line.startswith("File ")]
    told = lines[: places[0]] if places else lines
    text = " ".join(line for line in told if line and not line.startswith(_NOISE))
    return _one_line(text) + (f" ({lines[places[0]].rstrip(':')})" if places else "")


def _one_line(text: str, length: int = 240) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
