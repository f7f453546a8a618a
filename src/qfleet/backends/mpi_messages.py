"""Messages between ranks of any length, sent and received without a call that blocks."""

import ast
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from qfleet.backends.mpi_library import MPI
from qfleet.errors import FleetError

FIRST_BYTES = 1 << 13
"""What fits into the first part of an array's message: its header, and the array itself if it is that small."""
_CHUNK_BYTES = 1 << 28
"""MPI counts in 32 bits."""
_NUM_SPINS = 60
_SHORTEST_SLEEP_SECONDS, _LONGEST_SLEEP_SECONDS = 2e-5, 1e-3
_SHARE_SLEPT_TOO_LONG = 0.05
"""Of the time that is waited anyway."""
_HEAD = struct.Struct("qqqq")


def wait_until(is_so: Callable[[], bool], timeout_seconds: float) -> bool:
    """Looks again and again, at first at once, then after sleeps that grow with the wait; False if it is late."""
    for _ in range(_NUM_SPINS):
        if is_so():
            return True
        os.sched_yield()
    started = time.monotonic()
    while not is_so():
        waited = time.monotonic() - started
        if waited >= timeout_seconds:
            return False
        time.sleep(min(max(_SHARE_SLEPT_TOO_LONG * waited, _SHORTEST_SLEEP_SECONDS), _LONGEST_SLEEP_SECONDS))
    return True


def all_done(requests: list[MPI.Request]) -> bool:
    """Whether all have come to their end; FleetError if the library says that a rank is gone."""
    try:
        return MPI.Request.Testall(requests)
    except MPI.Exception as error:
        raise FleetError(f"MPI has lost a rank of this job ({error})") from None


def bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A contiguous array's memory, not a copy of it."""
    return np.asarray(array).reshape(-1).view(np.uint8)


def start_sending(
    communicator: MPI.Comm, memory: NDArray[np.uint8], rank: int, tag: int
) -> list[MPI.Request]:
    """Sends memory, which must stay as it is until all requests are done, in chunks that MPI can count."""
    return [communicator.Isend(chunk, rank, tag) for chunk in _chunks(memory)]


def start_receiving(
    communicator: MPI.Comm, memory: NDArray[np.uint8], rank: int, tag: int
) -> list[MPI.Request]:
    """The counterpart, for memory of the same length."""
    return [communicator.Irecv(chunk, rank, tag) for chunk in _chunks(memory)]


def _chunks(memory: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [memory[start : start + _CHUNK_BYTES] for start in range(0, memory.size, _CHUNK_BYTES)]


@dataclass(frozen=True)
class Header:
    """What a member brings to a round, before the array itself."""

    number: int
    """Of the round."""
    is_exchange: bool
    """Else a barrier."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def pack_first(header: Header, array: NDArray[Any]) -> tuple[NDArray[np.uint8], bool]:
    """The first part of a message, and whether the array is in it, behind the header; FleetError for an odd dtype.

    Dtypes are told as NumPy's file format tells them, so that nothing needs to be unpickled.
    """
    dtype = repr(npy_format.dtype_to_descr(header.dtype)).encode()
    fixed = _HEAD.pack(header.number, header.is_exchange, len(dtype), len(header.shape))
    head = fixed + np.array(header.shape, np.int64).tobytes() + dtype
    if len(head) > FIRST_BYTES:
        raise FleetError(f"a group takes arrays of simple dtypes; got one of {len(dtype)} characters")
    if len(head) + array.nbytes > FIRST_BYTES:
        return np.frombuffer(head, np.uint8), False
    return np.frombuffer(head + array.tobytes(), np.uint8), True


def unpack_first(part: NDArray[np.uint8]) -> tuple[Header, NDArray[Any], bool]:
    """The header, an array of its shape and dtype, and whether it has its content already."""
    number, is_exchange, dtype_bytes, num_dimensions = _HEAD.unpack(part[: _HEAD.size].tobytes())
    start = _HEAD.size + 8 * num_dimensions
    shape = tuple(np.frombuffer(part, np.int64, num_dimensions, _HEAD.size).tolist())
    text = part[start : start + dtype_bytes].tobytes().decode()
    dtype = npy_format.descr_to_dtype(ast.literal_eval(text))
    header = Header(number, bool(is_exchange), dtype, shape)
    array, body = np.empty(shape, dtype), start + dtype_bytes
    is_inside = body + array.nbytes <= FIRST_BYTES
    if is_inside and array.nbytes:
        bytes_of(array)[:] = part[body : body + array.nbytes]
    return header, array, is_inside


@final
class BytesSending:
    """Bytes on their way to a rank; whoever waits for `is_done` keeps this object."""

    def __init__(self, communicator: MPI.Comm, data: bytes, rank: int, tag: int) -> None:
        self._length = np.array([len(data)], np.int64)
        self._memory = np.frombuffer(data, np.uint8)
        self._requests = [communicator.Isend(self._length, rank, tag)]
        self._requests += start_sending(communicator, self._memory, rank, tag)

    def is_done(self) -> bool:
        """Whether the memory is no longer needed."""
        return all_done(self._requests)


@final
class BytesReceiving:
    """The next bytes from a rank; it may be looked at for as long as one likes."""

    def __init__(self, communicator: MPI.Comm, rank: int, tag: int) -> None:
        self._communicator, self._rank, self._tag = communicator, rank, tag
        self._length = np.zeros(1, np.int64)
        self._requests = [communicator.Irecv(self._length, rank, tag)]
        self._memory: NDArray[np.uint8] | None = None

    def is_done(self) -> bool:
        """Whether all of them are there."""
        if not all_done(self._requests):
            return False
        if self._memory is None:
            self._memory = np.empty(int(self._length[0]), np.uint8)
            self._requests = start_receiving(self._communicator, self._memory, self._rank, self._tag)
            return all_done(self._requests)
        return True

    def bytes(self) -> bytes:
        """What came, once it is done."""
        assert self._memory is not None, "not all is there"
        return self._memory.tobytes()
