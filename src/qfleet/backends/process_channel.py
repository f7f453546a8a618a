"""The connection between a process and its parent: Python objects, and descriptors of the memory that they hold."""

import array
import io
import pickle
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, final

from qfleet.backends.futures import LOOK_SECONDS
from qfleet.backends.message_memory import Memory

MOST_DESCRIPTORS = 250
"""Of one message; Linux takes 253."""
_HEADER = struct.Struct("!Q")
_ROOM = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


class _Pickler(pickle.Pickler):
    """Leaves memory out: it goes as a descriptor."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.memories: list[Memory] = []

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not Memory:
            return None
        self.memories.append(obj)
        return len(self.memories) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytearray, memories: Sequence[Memory]) -> None:
        super().__init__(io.BytesIO(data))
        self._memories = memories

    def persistent_load(self, pid: int) -> Memory:
        return self._memories[pid]


@final
class Channel:
    """One end of it."""

    def __init__(self, connection: socket.socket, look: Callable[[], None] | None = None) -> None:
        """`look` is called several times a second while the other end does nothing; it raises to give it up."""
        self._connection, self._look = connection, look
        connection.settimeout(None if look is None else LOOK_SECONDS)

    def send(self, message: Any) -> None:
        """Sends an object with the memory that it holds; OSError if the other end is gone."""
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(message)
        data = memoryview(file.getbuffer())
        numbers = array.array("i", [memory.descriptor for memory in pickler.memories])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
        parts = [_HEADER.pack(data.nbytes), data]
        sent = self._patiently(lambda: self._connection.sendmsg(parts, rights)) - _HEADER.size
        assert sent >= 0, "a stream socket takes eight bytes at once or not at all"
        while sent < data.nbytes:
            left = data[sent:]
            sent += self._patiently(lambda left=left: self._connection.send(left))

    def receive(self) -> Any:
        """The next object; EOFError if the other end is gone."""
        memories: list[Memory] = []
        (size,) = _HEADER.unpack(self._taken(_HEADER.size, memories))
        return _Unpickler(self._taken(size, memories), memories).load()

    def has_come(self) -> bool:
        """Whether there is something to receive."""
        return bool(select.select([self._connection], [], [], 0)[0])

    def close(self) -> None:
        """Nothing can be called afterwards."""
        self._connection.close()

    def _taken(self, num_bytes: int, memories: list[Memory]) -> bytearray:
        data = bytearray(num_bytes)
        left = memoryview(data)
        while left.nbytes:
            found = self._patiently(
                lambda left=left: self._connection.recvmsg_into([left], _ROOM, socket.MSG_CMSG_CLOEXEC)
            )
            for _, _, numbers in found[1]:
                memories += [Memory(number) for number in array.array("i", numbers)]
            if not found[0]:
                raise EOFError
            left = left[found[0] :]
        return data

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        while True:
            try:
                return attempt()
            except TimeoutError:
                if self._look is not None:
                    self._look()
