"""Files that survive a crash: written beside their name, synced, then renamed."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from qfleet.errors import DamagedError

STORABLE_DTYPES = frozenset(
    np.dtype(name)
    for name in (
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "complex64"),
    )
)
"""What a safetensors file can hold of NumPy's dtypes."""


@dataclass(frozen=True)
class FileSum:
    """What a file must hold to be the one that was written."""

    sha256: str
    """SHA-256 of the whole file, 64 hexadecimal digits."""
    num_bytes: int
    """Its size."""


def canonical_json(value: Any) -> bytes:
    """The one way `value` is serialised here; equal values give equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode()


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents, where missing, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_bytes(path: Path, data: bytes) -> FileSum:
    """Writes and syncs a new file; the caller makes its name durable."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileSum(hashlib.sha256(data).hexdigest(), len(data))


def write_arrays(path: Path, arrays: Mapping[str, NDArray]) -> FileSum:
    """Writes and syncs a new safetensors file; raises OSError where the disk refuses.

    The arrays are written from where they lie, without a copy of all of them, and without the GIL.
    """
    # safetensors writes `nbytes` bytes from the data pointer, so strides must be C's.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        save_file(contiguous, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return FileSum(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` so that at every moment either the old or the new content is there, whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_bytes(partial, data)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_verified(path: Path, expected: FileSum) -> bytes:
    """The file's bytes; raises DamagedError naming the file if they are not those that were written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) != expected.num_bytes:
        raise DamagedError(f"{path}: {len(data)} bytes long, {expected.num_bytes} were written")
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise DamagedError(f"{path}: its SHA-256 is not the one recorded when it was written")
    return data


def verify(path: Path, expected: FileSum) -> None:
    """Raises DamagedError, as `read_verified`, without holding the file in memory."""
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    if num_bytes != expected.num_bytes:
        raise DamagedError(f"{path}: {num_bytes} bytes long, {expected.num_bytes} were written")
    if sha256 != expected.sha256:
        raise DamagedError(f"{path}: its SHA-256 is not the one recorded when it was written")


def read_arrays(path: Path, expected: FileSum) -> dict[str, NDArray]:
    """The arrays of a safetensors file, writable; DamagedError as `read_verified` or if it is none."""
    data = read_verified(path, expected)
    try:
        return load(data)
    except SafetensorError as error:
        raise DamagedError(f"{path}: not a safetensors file ({error})") from error
