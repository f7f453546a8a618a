"""How threads that run compiled kernels wait for one another, without the interpreter lock."""

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from qfleet.kernels import kernel

_MOST_LOOKS = 4000
"""A few microseconds: on two free cores the other is there by then."""
_MOST_TURNS = 100_000_000
"""Half a minute at least: whoever is not there by then will not come."""


def _counter_place(context, builder, counter_type, counter):
    return cgutils.create_struct_proxy(counter_type)(context, builder, counter).data


def _arrive(typing_context, counter):
    """Adds one to counter[0] (int64)."""

    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        place = _counter_place(context, builder, signature.args[0], arguments[0])
        builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), generate


def _num_arrived(typing_context, counter):
    """counter[0], as it is now."""

    def generate(context, builder, signature, arguments):
        place = _counter_place(context, builder, signature.args[0], arguments[0])
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(counter), generate


def _give_way(typing_context):
    """Lets another thread have this core for a moment, if one waits for it."""

    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


_arrives: Any = intrinsic(_arrive)
_arrivals: Any = intrinsic(_num_arrived)
_gives_way: Any = intrinsic(_give_way)


@kernel
def meet(counter, num_arrivals):
    """Counts this thread in `counter` (1,) int64 and waits for `num_arrivals` in all; False if they do not come.

    What any of them has written before, all see afterwards.
    """
    _arrives(counter)
    for _ in range(_MOST_LOOKS):
        if _arrivals(counter) >= num_arrivals:
            return True
    for _ in range(_MOST_TURNS):
        _gives_way()
        if _arrivals(counter) >= num_arrivals:
            return True
    return False
