"""Arrays in memory that several processes share and that no name in /dev/shm can outlive.

The memory is a file without a name, handed over by its descriptor: it is gone with the last process that
holds it, however that process ends, and /dev/shm's size (64 MB in Docker) does not limit it.
"""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError

Field = tuple[tuple[int, ...], np.dtype]
_ALIGNMENT = 64


def _size(field: Field) -> int:
    """Bytes of an array, rounded up so that no two arrays share a cache line."""
    shape, dtype = field
    return -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


def new_memory(fields: list[Field]) -> int:
    """The descriptor of memory for `fields`; QfleetError where the machine has not that much left."""
    num_bytes = sum(map(_size, fields))
    available = _available_bytes()
    if available is not None and num_bytes > available:
        raise QfleetError(
            f"the environments need {num_bytes / 2**20:.0f} MiB of shared memory, "
            f"{available / 2**20:.0f} MiB are free; use fewer environments"
        )
    descriptor = nameless_file()
    os.ftruncate(descriptor, num_bytes)
    return descriptor


def map_arrays(descriptor: int, fields: list[Field]) -> list[NDArray]:
    """The arrays in the memory; they keep it mapped as long as they live."""
    sizes = list(map(_size, fields))
    memory = mmap.mmap(descriptor, sum(sizes))
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    return [
        np.ndarray(shape, dtype, memory, int(offset))
        for (shape, dtype), offset in zip(fields, offsets, strict=False)
    ]


def nameless_file() -> int:
    """The descriptor of an empty file in memory without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("qfleet")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _available_bytes() -> int | None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
