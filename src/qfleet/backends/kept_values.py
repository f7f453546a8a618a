"""Values that keepers hold, so that they outlive the worker that made them: how they travel.

Every connection begins with the run's token; nothing from elsewhere is ever read.
"""

import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from qfleet.backends.network_mesh import TOKEN_BYTES, Address
from qfleet.errors import FleetError

STORE, FETCH, CONTROL = b"S", b"G", b"C"
HELLO = struct.Struct(f"!{TOKEN_BYTES}scQQ")
"""Token, what is wanted, the value's key and its bytes."""
SIZE = struct.Struct("!Q")
ABSENT = 2**64 - 1
"""The size of what a keeper does not have."""
STORED = b"K"
PROGRESS_SECONDS = 2.0
"""A keeper that takes or gives nothing for so long is as good as gone."""
_CHUNK_BYTES = 1 << 20


@final
@dataclass(frozen=True)
class Kept:
    """Stands for a value that keepers have; whoever unpickles it gets the value itself."""

    key: int
    places: tuple[Address, ...]
    """Of the keepers that have it."""
    token: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return fetch_value, (self.key, self.places, self.token)


@final
@dataclass(frozen=True)
class KeptAt:
    """What a worker answers once its value is kept: a `Kept` would be fetched by the driver."""

    key: int
    places: tuple[Address, ...]


def dump_parts(value: Any) -> list[memoryview]:
    """A value's bytes with large arrays as they lie; the first part says how long the others are."""
    import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    pickled = memoryview(cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    parts = [pickled, *(buffer.raw() for buffer in buffers)]
    lengths = [len(parts), *(part.nbytes for part in parts)]
    return [memoryview(struct.pack(f"!{len(lengths)}Q", *lengths)), *parts]


def load_parts(data: bytearray) -> Any:
    """The value from what `dump_parts` gave, put together; its arrays lie in that memory."""
    view = memoryview(data)
    (count,) = SIZE.unpack_from(view)
    lengths = struct.unpack_from(f"!{count}Q", view, SIZE.size)
    parts, start = [], SIZE.size * (1 + count)
    for length in lengths:
        parts.append(view[start : start + length])
        start += length
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - from within the run


def store(place: Address, token: bytes, key: int, parts: Sequence[memoryview]) -> None:
    """Gives a keeper a value; OSError if it does not take it."""
    with socket.create_connection(place, PROGRESS_SECONDS) as connection:
        connection.sendall(HELLO.pack(token, STORE, key, sum(part.nbytes for part in parts)))
        for part in parts:
            send_all(connection, part)
        if connection.recv(1) != STORED:
            raise ConnectionResetError("the keeper has closed its connection")


def fetch_value(key: int, places: Sequence[Address], token: bytes) -> Any:
    """The value from the first keeper that gives it; FleetError if none does."""
    for place in places:
        try:
            data = _fetch(place, token, key)
        except OSError:
            continue
        if data is not None:
            return load_parts(data)
    told = ", ".join(f"{host}:{port}" for host, port in places)
    raise FleetError(f"no keeper has the value any more that was kept at {told}; their nodes are gone")


def _fetch(place: Address, token: bytes, key: int) -> bytearray | None:
    with socket.create_connection(place, PROGRESS_SECONDS) as connection:
        connection.sendall(HELLO.pack(token, FETCH, key, 0))
        (size,) = SIZE.unpack(receive_all(connection, SIZE.size))
        return None if size == ABSENT else receive_all(connection, size)


def send_all(connection: socket.socket, data: memoryview | bytearray) -> None:
    """In pieces, each of which has the connection's whole deadline."""
    left = memoryview(data).cast("B")
    while left.nbytes:
        left = left[connection.send(left[:_CHUNK_BYTES]) :]


def receive_all(connection: socket.socket, num_bytes: int) -> bytearray:
    """Exactly so many; OSError if they do not come."""
    data = bytearray(num_bytes)
    left = memoryview(data)
    while left.nbytes:
        count = connection.recv_into(left)
        if not count:
            raise ConnectionResetError("the other side has closed its connection")
        left = left[count:]
    return data


def keep_value(value: Any, key: int, places: Sequence[Address], token: bytes) -> KeptAt:
    """Stores a value with every keeper that takes it; FleetError if none does."""
    parts, kept, errors = dump_parts(value), [], []
    for place in places:
        try:
            store(place, token, key, parts)
            kept.append(place)
        except OSError as error:
            errors.append(f"{place[0]}:{place[1]}: {error}")
    if not kept:
        raise FleetError(f"no keeper takes a value ({'; '.join(errors) or 'no node lives'})")
    return KeptAt(key, tuple(kept))
