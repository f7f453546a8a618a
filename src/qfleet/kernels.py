"""How every compiled kernel is compiled, and the random numbers that kernels draw.

Random numbers are functions of (seed, stream, counter, lane) rather than of a hidden state: a run resumed
at counter c draws what the uninterrupted run draws, whichever thread or process does the drawing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from qfleet.kernel_cache import cached

Function = TypeVar("Function", bound=Callable[..., Any])

STREAM_EXPLORATION = 1
STREAM_SAMPLING = 2
STREAM_POLICY = 3

# Sums may be reordered for vector units, but NaN and infinity keep their meaning: losses are checked for them.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_INLINED: dict[str, Any] = {"forceinline": True, "_nrt": False}
PART_OPTIONS: dict[str, Any] = {**_INLINED, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""What makes a function a part, for numba's decorators. Wrappers take more than half of the time to compile one."""


def kernel(function: Function) -> Function:
    """Compiles `function` with numba: no interpreter lock, cached on disk, IEEE division."""
    return _cached(function, {"fastmath": _FASTMATH})


def borrowing_kernel(function: Function) -> Function:
    """A kernel that borrows the arrays it is given, without counting references, and so cannot make any.

    numba would count them, atomically, wherever a tuple of arrays is handed to a part. Floating-point operations
    are done as written, so that what is computed does not depend on which parts a kernel was made of.
    """
    return _cached(function, {"_nrt": False})


def part(function: Function) -> Function:
    """A part of borrowing kernels: compiled into whatever calls it. TypeError if Python calls it."""
    compiled: Any = numba.njit(**{**_OPTIONS, **PART_OPTIONS})(function)

    def refuse(*arguments: Any) -> None:
        raise TypeError(f"{function.__name__} is a part of kernels, which only they can call")

    def keep(overload: Any) -> None:
        compiled.overloads[tuple(overload.signature.args)] = overload

    # numba would jump to the address 0, where the wrapper is missing, of what it has compiled for a kernel.
    compiled._compile_for_args, compiled.add_overload = refuse, keep
    return compiled


def callable_part(function: Function) -> Function:
    """A part that Python can call too."""
    compiled: Any = numba.njit(**_OPTIONS, **_INLINED)(function)
    return compiled


def _cached(function: Function, options: dict[str, Any]) -> Function:
    return cached(numba.njit(**_OPTIONS, **options)(function), function)


@kernel
def mix(bits):
    """One round of the splitmix64 finaliser (Steele et al. 2014): uint64 to well-mixed uint64."""
    bits = np.uint64(bits)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@kernel
def uniform(seed, stream, counter, lane):
    """A uniform float64 in [0, 1) that depends on nothing but its four arguments (integers)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    bits = mix(np.uint64(seed) + golden)
    bits = mix(bits + np.uint64(stream) * golden)
    bits = mix(bits + np.uint64(counter) * golden)
    bits = mix(bits + np.uint64(lane) * golden)
    return np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def _pointer(context, builder, array_type, array, index):
    """The address of array.ravel()[index]."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _prefetch(typing_context, array, index):
    """Asks for the cache line of array.ravel()[index], which may lie anywhere."""

    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        place = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        byte_pointer, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(place, byte_pointer)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte_pointer, whole, whole, whole]),
            "llvm.prefetch.p0i8",
        )
        builder.call(function, [address, whole(0), whole(3), whole(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch: Any = intrinsic(_prefetch)
"""prefetch(array, index) asks for the cache line of array.ravel()[index], which may lie anywhere."""


def _copy_entries(typing_context, out, first, array, start, num):
    """Writes array.ravel()[start : start + num] over out.ravel()[first : first + num]; nothing is checked."""
    if out.dtype != array.dtype or (out.layout, array.layout) != ("C", "C"):
        return None

    def generate(context, builder, signature, arguments):
        place = [
            _pointer(context, builder, signature.args[k], arguments[k], arguments[k + 1]) for k in (0, 2)
        ]
        item_bytes = context.get_abi_sizeof(context.get_data_type(array.dtype))
        cgutils.raw_memcpy(builder, place[0], place[1], arguments[4], item_bytes)
        return context.get_dummy_value()

    return types.void(out, types.intp, array, types.intp, types.intp), generate


copy_entries: Any = intrinsic(_copy_entries)
"""copy_entries(out, first, array, start, num) copies array.ravel()[start : start + num] to out.ravel()[first :].

Both are contiguous and of one dtype. A loop over bytes takes eight times as long.
"""
