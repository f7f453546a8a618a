"""One array, or none, from one member of a group to another, as bytes: nothing in it is ever run."""

import ast
import math
import socket
import struct
from typing import Any, final

import numpy as np
from numpy.lib import format as numpy_format
from numpy.typing import NDArray

from qfleet.errors import FleetError

_HEAD = struct.Struct("!QI")
"""The round's number and the bytes of the description, from whose dtype and shape the bytes of the payload follow."""

_NEWS = struct.Struct("!QI")
"""The rounds that the sender has finished, and the bytes of the text."""


@final
class Outgoing:
    """A message on its way out; the array's memory is sent as it lies."""

    def __init__(self, number: int, array: NDArray[Any] | None) -> None:
        description = b"" if array is None else _describe(array)
        self._left = [memoryview(_HEAD.pack(number, len(description)) + description)]
        if array is not None and array.nbytes:
            self._left.append(array.view(np.ndarray).reshape(-1).view(np.uint8).data)

    @property
    def is_done(self) -> bool:
        """Whether all of it has been sent."""
        return not self._left

    def send(self, connection: socket.socket) -> int:
        """Sends what the connection takes at the moment; the number of bytes."""
        total = 0
        while self._left:
            try:
                count = connection.sendmsg(self._left)
            except BlockingIOError:
                break
            total += count
            while self._left and count >= self._left[0].nbytes:
                count -= self._left.pop(0).nbytes
            if count:
                self._left[0] = self._left[0][count:]
        return total


@final
class Incoming:
    """A message on its way in; the array is received into the memory where it then stays."""

    def __init__(self) -> None:
        self.number = 0
        self.array: NDArray[Any] | None = None
        """What it brought, read-only; None at the end too if it is a barrier's."""
        self.is_done = False
        self._head, self._description = bytearray(_HEAD.size), bytearray()
        self._left = memoryview(self._head)
        self._steps = iter((self._read_head, self._read_description, self._finish))

    def receive(self, connection: socket.socket) -> int:
        """Takes what has come; the number of bytes. Raises ConnectionError where nothing more will come."""
        total = 0
        while not self.is_done:
            if self._left.nbytes:
                try:
                    count = connection.recv_into(self._left)
                except BlockingIOError:
                    break
                if not count:
                    raise ConnectionResetError("the other side has closed its connection")
                total += count
                self._left = self._left[count:]
            if not self._left.nbytes:
                next(self._steps)()
        return total

    def _read_head(self) -> None:
        self.number, length = _HEAD.unpack(self._head)
        self._description = bytearray(length)
        self._left = memoryview(self._description)

    def _read_description(self) -> None:
        if not self._description:
            return
        dtype, shape = _read(bytes(self._description))
        memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        self._left = memory.data
        self.array = np.ndarray(shape, dtype, memory) if memory.size else np.empty(shape, dtype)
        self.array.flags.writeable = False

    def _finish(self) -> None:
        self.is_done = True


@final
class News:
    """One connection's word that the group is broken, as it comes in."""

    def __init__(self) -> None:
        self._come = bytearray()

    def receive(self, connection: socket.socket) -> tuple[int, str] | None:
        """The rounds that the sender had finished and why it left; None if it has not said so.

        Raises ConnectionError where it is gone without a word.
        """
        try:
            come = connection.recv(4096)
        except BlockingIOError:
            return None
        if not come:
            raise ConnectionResetError("the other side has closed its connection")
        self._come += come
        if len(self._come) < _NEWS.size:
            return None
        num_rounds, length = _NEWS.unpack_from(self._come)
        text = self._come[_NEWS.size :]
        return (num_rounds, text.decode()) if len(text) >= length else None


def pack_news(num_rounds: int, text: str) -> bytes:
    """What `News` receives."""
    said = text.encode()
    return _NEWS.pack(num_rounds, len(said)) + said


def _describe(array: NDArray[Any]) -> bytes:
    return repr((numpy_format.dtype_to_descr(array.dtype), array.shape)).encode()


def _read(description: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        described, shape = ast.literal_eval(description.decode())
        return numpy_format.descr_to_dtype(described), shape
    except (ValueError, TypeError, SyntaxError) as error:
        raise FleetError(f"a message of the group describes no array: {description[:80]!r}") from error
