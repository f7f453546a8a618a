"""A record of arrays at a fixed address, so that a kernel called for every single step need not be handed it anew.

Unpacking some thirty arrays takes longer than learning from a step. Here they are unpacked once, into memory that
the kernel then reads by its address.
"""

from collections.abc import Callable
from typing import Any, final

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import NativeValue, intrinsic, models, register_model, typeof_impl, unbox
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel


@final
class Pinned:
    """A NamedTuple of arrays, numbers and further ones; its arrays must not be exchanged, only written into."""

    def __init__(self, record: Any) -> None:
        self.record = record
        self.kind = numba.typeof(record)
        size = _write(record, np.empty(0, np.uint8))
        self._memory: NDArray[np.uint8] = np.empty(size, np.uint8)
        _write(record, self._memory)
        self.address = self._memory.ctypes.data


def resolved(kernel: Any, *arguments: Any) -> Callable[..., Any]:
    """The machine code of a kernel for arguments of these types, without looking at the types of each call."""
    return kernel.compile(tuple(numba.typeof(argument) for argument in arguments))


class PinnedType(types.Type):
    """A Pinned as numba sees it: an address of a record of one type."""

    def __init__(self, record: Any) -> None:
        self.record = record
        super().__init__(name=f"Pinned({record})")


@register_model(PinnedType)
class _PinnedModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: PinnedType) -> None:
        super().__init__(manager, kind, cgutils.voidptr_t)


@typeof_impl.register(Pinned)
def _typeof(value: Pinned, context: Any) -> PinnedType:
    return PinnedType(value.kind)


@unbox(PinnedType)
def _unbox(kind: PinnedType, value: Any, context: Any) -> NativeValue:
    address = context.pyapi.object_getattr_string(value, "address")
    pointer = context.pyapi.long_as_voidptr(address)
    context.pyapi.decref(address)
    return NativeValue(pointer)


@intrinsic
def contents(typing_context, pinned):
    """The record that is pinned."""

    def generate(context, builder, signature, arguments):
        pointer = builder.bitcast(arguments[0], context.get_data_type(pinned.record).as_pointer())
        return context.unpack_value(builder, pinned.record, pointer)

    return pinned.record(pinned), generate


@intrinsic
def _size_of(typing_context, record):
    def generate(context, builder, signature, arguments):
        return context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(record)))

    return types.intp(record), generate


@intrinsic
def _store(typing_context, record, memory):
    def generate(context, builder, signature, arguments):
        data = cgutils.create_struct_proxy(memory)(context, builder, arguments[1]).data
        pointer = builder.bitcast(data, context.get_data_type(record).as_pointer())
        context.pack_value(builder, record, arguments[0], pointer)
        return context.get_dummy_value()

    return types.void(record, memory), generate


@borrowing_kernel
def _write(record, memory):
    """Stores the record in memory that is large enough; returns the bytes it needs."""
    size = _size_of(record)  # pyright: ignore[reportCallIssue]
    if memory.size >= size:
        _store(record, memory)  # pyright: ignore[reportCallIssue]
    return size
