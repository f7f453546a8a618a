"""What makes a service, as bytes for another process; large arrays stay outside of the bytes, in shared memory."""

import io
import pickle
from collections.abc import Sequence
from typing import Any, final

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from qfleet.backends.futures import one_line
from qfleet.backends.shared_memory import Segment, SharedArrays
from qfleet.errors import FleetError

LARGE_BYTES = 1 << 16
"""Arrays from this size on are not copied for every service."""


@final
class Buffers:
    """Large arrays' memory, each once however many services hold it."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []
        self._indices: dict[tuple[int, int], int] = {}

    def index(self, buffer: pickle.PickleBuffer) -> int | None:
        """The number of a large array's memory among the views; None for a small one."""
        view = buffer.raw()
        if view.nbytes < LARGE_BYTES:
            return None
        key = np.frombuffer(view, np.uint8).ctypes.data, view.nbytes
        if key not in self._indices:
            self._indices[key] = len(self.views)
            self.views.append(view)
        return self._indices[key]


class _Pickler(cloudpickle.Pickler):
    """Writes arrays in shared memory as where they lie there."""

    def __init__(self, file: io.BytesIO, shared: SharedArrays, buffers: Buffers) -> None:
        self.used: list[int] = []
        self._shared, self._buffers = shared, buffers
        super().__init__(file, 5, self._keep)

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray or (place := self._shared.find(obj)) is None:
            return None
        return (*place, obj.shape, obj.dtype, obj.strides, obj.flags.writeable)

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        index = self._buffers.index(buffer)
        if index is None:
            return True
        self.used.append(index)
        return False


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, segments: Sequence[Segment], buffers: Sequence[memoryview]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._segments = segments

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        index, offset, shape, dtype, strides, is_writeable = pid
        array = self._segments[index].array(shape, dtype, offset, strides)
        array.flags.writeable = is_writeable
        return array


def dump_maker(name: str, maker: Any, shared: SharedArrays, buffers: Buffers) -> tuple[bytes, list[int]]:
    """Bytes, and the numbers of the buffers that belong to them; FleetError if it cannot be pickled."""
    file = io.BytesIO()
    pickler = _Pickler(file, shared, buffers)
    try:
        pickler.dump(maker)
    except Exception as error:
        raise FleetError(
            f"what makes {name} cannot be sent to another process ({one_line(error)}); the backend threads needs "
            "not send it"
        ) from error
    return file.getvalue(), pickler.used


def load_maker(data: bytes, segments: Sequence[Segment], buffers: Sequence[memoryview]) -> Any:
    """The maker: shared arrays where they are, large ones read-only, all others copied."""
    # The bytes come from the parent process, through a pipe that nobody else holds.
    return _Unpickler(data, segments, buffers).load()
