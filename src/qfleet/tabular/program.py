"""What the learning kernel is compiled for: a world's functions, a rule, an exploration, a learning rate.

A Program is a value to Python and a type to numba. A function `f(program, ...)` that is dispatched here is
resolved while the kernel is compiled, so that the choice costs nothing while it runs, and the compiled kernel
can be kept on disk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from numba.core import types
from numba.extending import NativeValue, models, overload, register_model, typeof_impl, unbox

from qfleet.kernels import PART_OPTIONS

Function = TypeVar("Function", bound=Callable[..., Any])

_JIT_OPTIONS: Any = {"error_model": "numpy", **PART_OPTIONS}

Rule = Literal[
    "q-learning", "double-q-learning", "sarsa", "expected-sarsa", "tree-backup", "watkins-q-lambda"
]
Exploration = Literal["epsilon-greedy", "boltzmann", "uniform"]
RateSchedule = Literal["constant", "visits", "rescaled-linear"]
Rows = Literal["whole", "block", "ordered"]


@dataclass(frozen=True)
class Program:
    """The compile-time choices of a kernel."""

    world: str
    """Key of a World."""
    rule: Rule
    exploration: Exploration
    rate: RateSchedule
    masked: bool
    """Whether the world says which actions a state has."""
    weighted: bool
    """Whether the logarithms of the merge's weights are added up."""
    rows: Rows
    """Which states the table's rows are: all, a block of them, or a block in an order of their own."""
    prefetched: bool
    """Whether memory is asked for ahead of its use: for tables that no cache holds."""


class ProgramType(types.Type):
    """A Program as numba sees it: no data, all type."""

    def __init__(self, program: Program) -> None:
        self.program = program
        super().__init__(name=repr(program))


@typeof_impl.register(Program)
def _typeof(value: Program, context: Any) -> ProgramType:
    return _type_of(value)


@lru_cache(maxsize=256)
def _type_of(program: Program) -> ProgramType:
    """Kept, since the kernel's dispatcher asks at every call."""
    return ProgramType(program)


register_model(ProgramType)(models.OpaqueModel)


@unbox(ProgramType)
def _unbox(kind: ProgramType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


def dispatched(choose: Callable[[Program], Callable[..., Any]]) -> Callable[[Function], Function]:
    """Marks a stub whose first argument is a Program; `choose` gives the function that stands for it."""

    def decorate(stub: Function) -> Function:
        def typing(program: ProgramType, *arguments: Any) -> Callable[..., Any]:
            return choose(program.program)

        overload(stub, strict=False, jit_options=_JIT_OPTIONS)(typing)
        return stub

    return decorate
