"""A replay too large to write at every checkpoint: rows that never change, written once, in segments."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import DamagedError, QfleetError
from qfleet.runs.durable import FileSum, make_folder, read_arrays, sync_folder, write_arrays

_MAX_BATCH_SEGMENTS = 2
_WAIT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Stream:
    """Rows of a ring buffer, numbered from the first ever written; a row never changes once written."""

    first: int
    """Number of the oldest row alive."""
    last: int
    """Number of the row that will be written next; rows [first, last) are alive."""
    read: Callable[[int, int], dict[str, NDArray]]
    """Reads the rows [a, b) as named arrays, each (b - a, ...); views are fine."""


@dataclass(frozen=True)
class Segment:
    """Some rows in one file."""

    first: int
    """Number of its first row."""
    last: int
    """One more than the number of its last row."""
    sum: FileSum
    """What the file must hold."""

    @property
    def file_name(self) -> str:
        """Part of the SHA-256 is in the name: another history's rows never take a file's place."""
        return f"{self.first:012d}-{self.last:012d}-{self.sum.sha256[:16]}.safetensors"


@dataclass(frozen=True)
class LoadedStream:
    """A stream in a checkpoint, read piece by piece so that memory is not needed twice."""

    first: int
    """Number of the oldest row alive."""
    last: int
    """One more than the number of the newest row."""
    files: tuple[tuple[Path, Segment], ...]
    """Where the rows lie, in order, without gaps."""

    def read_segments(self) -> Iterator[tuple[int, dict[str, NDArray]]]:
        """Yields (number of the first row, arrays (rows, ...)) in order; only rows alive.

        Raises DamagedError if a file has changed since the checkpoint was loaded.
        """
        for path, segment in self.files:
            arrays = read_arrays(path, segment.sum)
            num_dead = max(0, self.first - segment.first)
            if any(len(array) != segment.last - segment.first for array in arrays.values()):
                raise DamagedError(f"{path}: does not hold the rows its name says")
            yield segment.first + num_dead, {name: array[num_dead:] for name, array in arrays.items()}


class SegmentLog:
    """The segments of one stream on disk that the current run wrote or was loaded from.

    A file in the folder that is not in here is another history's and is never referred to.
    """

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self._segment_bytes = segment_bytes
        self._row_bytes = 0

    def missing(self, stream: Stream) -> Iterator[tuple[int, int]]:
        """Row ranges of the segments that are full in `stream` and not on disk, oldest first."""
        start, size = self.end(stream), self.rows_per_segment(stream)
        while size and (end := (start // size + 1) * size) <= stream.last:
            yield start, end
            start = end

    def end(self, stream: Stream) -> int:
        """Number of the first row alive that is in no segment yet."""
        end = self.segments[-1].last if self.segments else 0
        if end > stream.last:
            raise ValueError(f"{self.folder}: rows up to {end} are stored, the stream ends at {stream.last}")
        return max(end, stream.first)

    def rows_per_segment(self, stream: Stream) -> int:
        """A power of two, always the same for rows of the same size; 0 while there is no row."""
        if stream.first == stream.last:
            return 0
        return 1 << max(0, (self._segment_bytes // self._bytes_per_row(stream)).bit_length() - 1)

    def missing_bytes(self, stream: Stream) -> int:
        """Bytes of the rows alive that are in no segment yet."""
        return (
            (stream.last - self.end(stream)) * self._bytes_per_row(stream)
            if stream.last > stream.first
            else 0
        )

    def _bytes_per_row(self, stream: Stream) -> int:
        if not self._row_bytes:
            row = stream.read(stream.first, stream.first + 1)
            self._row_bytes = max(1, sum(array.nbytes for array in row.values()))
        return self._row_bytes

    def forget_dead(self, stream: Stream) -> None:
        """Drops the segments of which the ring has no row left."""
        self.segments = [segment for segment in self.segments if segment.last > stream.first]

    def write(self, first: int, last: int, arrays: dict[str, NDArray]) -> None:
        """Writes rows [first, last) as the next segment; raises OSError, leaving no file, if it cannot."""
        make_folder(self.folder)
        partial = self.folder / f".{first:012d}.partial"
        try:
            segment = Segment(first, last, write_arrays(partial, arrays))
            partial.rename(self.folder / segment.file_name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)
        self.segments.append(segment)


class BackgroundWriter:
    """Writes small batches of segments in a thread, so that a checkpoint finds little left to do.

    While a batch is being written no other is taken: memory stays bounded and nobody waits for the disk.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def offer(self, log: SegmentLog, stream: Stream) -> None:
        """Copies up to two missing segments and starts writing them, unless busy or failed before."""
        if self._error or (self._thread and self._thread.is_alive()):
            return
        batch = []
        for (first, last), _ in zip(log.missing(stream), range(_MAX_BATCH_SEGMENTS), strict=False):
            rows = {name: np.array(array) for name, array in stream.read(first, last).items()}
            batch.append((first, last, rows))
        if batch:
            self._thread = threading.Thread(
                target=self._write, args=(log, batch), name="segments", daemon=True
            )
            self._thread.start()

    def finish(self) -> OSError | None:
        """Waits for the batch being written; returns, once, the error that stopped one."""
        if self._thread:
            self._thread.join(_WAIT_TIMEOUT_SECONDS)
            if self._thread.is_alive():
                raise QfleetError(
                    f"writing a replay segment has taken {_WAIT_TIMEOUT_SECONDS:.0f} s: disk stalled?"
                )
        self._thread, error, self._error = None, self._error, None
        return error

    def _write(self, log: SegmentLog, batch: list[tuple[int, int, dict[str, NDArray]]]) -> None:
        try:
            for first, last, rows in batch:
                log.write(first, last, rows)
        except OSError as error:
            self._error = error


def remove_unreferenced(folder: Path, referenced: set[Path]) -> None:
    """Removes the segment files below `folder` that are not in `referenced`, and halves of files."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if path not in referenced:
                path.unlink(missing_ok=True)
