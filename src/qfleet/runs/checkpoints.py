"""Checkpoints: a folder is either whole, synced and verified, or it does not count."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from qfleet.errors import DamagedError, QfleetError
from qfleet.runs.durable import (
    make_folder,
    read_arrays,
    read_verified,
    sync_folder,
    verify,
    write_arrays,
    write_bytes,
)
from qfleet.runs.manifest import MANIFEST_NAME, Manifest, StreamEntry, read_manifest, tail_name
from qfleet.runs.state_tree import LoadedState, Parts, State, put_together, take_apart
from qfleet.runs.streams import (
    BackgroundWriter,
    LoadedStream,
    Segment,
    SegmentLog,
    Stream,
    remove_unreferenced,
)

SEGMENT_BYTES = 16 * 2**20
_ARRAYS, _STATE = "arrays.safetensors", "state.json"
_NAME = re.compile(r"(\d{12,})(\.replaced)?")


class CheckpointStore:
    """The checkpoints of one run, in `folder` (the run's `checkpoints/`).

    `<step, 12 digits>/` are the checkpoints, of which the newest `keep` are kept; `best/<step>/` is the best
    one; `streams/<name>/` has the segments that they share. Only writing changes anything on disk, so a store
    may read while another process (the one that holds the run's lock) writes. One thread uses a store.

    `report` takes one line for every damaged checkpoint passed over and for failed background writes.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        report: Callable[[str], None] = lambda line: None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        if keep < 1:
            raise QfleetError(f"keep={keep} checkpoints: at least 1 is needed to resume from")
        self.folder = folder
        self._keep = keep
        self._report = report
        self._segment_bytes = segment_bytes
        self._logs: dict[str, SegmentLog] = {}
        self._background = BackgroundWriter()
        self._tidied = False

    def save(self, step: int, state: State) -> None:
        """Writes checkpoint `step`, then removes what is no longer kept.

        One that exists is replaced. Later ones belong to a future that this run has left, and are removed.
        Raises QfleetError, with the earlier checkpoints intact, if the disk is full or fails.
        """
        self._write(self.folder, step, state)
        kept = [number for number in self._steps(self.folder) if number <= step][: self._keep]
        self._prune(self.folder, kept)

    def save_best(self, step: int, state: State) -> None:
        """Writes the best checkpoint, then removes the one that was best before; raises as `save`."""
        self._write(self.folder / "best", step, state)
        self._prune(self.folder / "best", [step])

    def write_full_segments(self, state_streams: dict[str, Stream]) -> None:
        """Starts writing the rows that have filled a segment since; keys are the streams' paths in the state.

        Never waits for the disk: call it every few thousand rows, so that `save` finds little left to write.
        The rows are copied before it returns. An error is reported by the next `save`, which tries again.
        """
        self._tidy()
        for name, stream in state_streams.items():
            self._background.offer(self._log(name), stream)

    def load(self, step: int) -> LoadedState:
        """The state saved at `step`, every byte verified; the run goes on from there.

        Raises DamagedError, naming the file, if it is missing or not what was written.
        """
        candidates = [path for number, path in _candidates(self.folder) if number == step]
        if not candidates:
            steps = ", ".join(map(str, self._steps(self.folder))) or "none"
            raise QfleetError(f"no checkpoint of step {step} in {self.folder}; there are: {steps}")
        return self._first_sound(candidates, adopt=True)[1]

    def load_newest(self) -> tuple[int, LoadedState] | None:
        """Step and state of the newest sound checkpoint, None if there is none at all; the run goes on there.

        Damaged ones are reported and passed over; raises DamagedError if none is sound.
        """
        candidates = [path for _, path in _candidates(self.folder)]
        return self._first_sound(candidates, adopt=True) if candidates else None

    def load_best(self) -> tuple[int, LoadedState] | None:
        """As `load_newest`, for the best checkpoint; where the run goes on is not changed by it."""
        candidates = [path for _, path in _candidates(self.folder / "best")]
        return self._first_sound(candidates, adopt=False) if candidates else None

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first; they may turn out damaged."""
        return self._steps(self.folder)[::-1]

    def close(self) -> None:
        """Waits until what `write_full_segments` started is written."""
        self._report_background_error()

    def _steps(self, folder: Path) -> list[int]:
        return list(dict.fromkeys(step for step, _ in _candidates(folder)))

    def _log(self, name: str) -> SegmentLog:
        if name not in self._logs:
            self._logs[name] = SegmentLog(self.folder / "streams" / name, self._segment_bytes)
        return self._logs[name]

    # ---- writing

    def _write(self, parent: Path, step: int, state: State) -> None:
        parts = take_apart(state)
        self._report_background_error()
        partial = parent / f".{step:012d}.partial"
        try:
            self._tidy()
            self._write_segments(parts)
            make_folder(partial)
            self._fill(partial, step, parts)
            _replace(parent / f"{step:012d}", partial)
        except OSError as error:
            raise QfleetError(self._failure(step, parts, error)) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write_segments(self, parts: Parts) -> None:
        for name, stream in parts.streams.items():
            log = self._log(name)
            log.forget_dead(stream)
            for first, last in log.missing(stream):
                log.write(first, last, stream.read(first, last))

    def _fill(self, partial: Path, step: int, parts: Parts) -> None:
        files = {
            _ARRAYS: write_arrays(partial / _ARRAYS, parts.arrays),
            _STATE: write_bytes(partial / _STATE, json.dumps(parts.tree, indent=1).encode()),
        }
        streams = {
            name: StreamEntry(
                stream.first,
                stream.last,
                tuple(self._log(name).segments),
                self._write_tail(partial / tail_name(name), self._log(name).end(stream), stream),
            )
            for name, stream in parts.streams.items()
        }
        write_bytes(partial / MANIFEST_NAME, Manifest(step, files, streams).to_bytes())
        sync_folder(partial)

    def _write_tail(self, path: Path, first: int, stream: Stream) -> Segment | None:
        if first == stream.last:
            return None
        return Segment(first, stream.last, write_arrays(path, stream.read(first, stream.last)))

    def _failure(self, step: int, parts: Parts, error: OSError) -> str:
        needed = sum(array.nbytes for array in parts.arrays.values())
        needed += sum(self._log(name).missing_bytes(stream) for name, stream in parts.streams.items())
        free = shutil.disk_usage(
            next(path for path in (self.folder, *self.folder.parents) if path.exists())
        ).free
        return (
            f"checkpoint {step} could not be written to {self.folder}: {error.strerror or error}; it needs "
            f"{needed / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free; earlier checkpoints are intact"
        )

    def _report_background_error(self) -> None:
        if error := self._background.finish():
            self._report(f"a replay segment could not be written in the background ({error}); trying again")

    # ---- removing

    def _tidy(self) -> None:
        """Removes what a killed process left half written; at the first write, for readers change nothing."""
        if not self._tidied:
            for path in [*self.folder.glob(".*.partial"), *self.folder.glob("best/.*.partial")]:
                shutil.rmtree(path)
        self._tidied = True

    def _prune(self, parent: Path, kept: list[int]) -> None:
        try:
            self._remove_all_but(parent, kept)
        except OSError as error:
            self._report(f"old checkpoints in {parent} could not be removed: {error}")

    def _remove_all_but(self, parent: Path, kept: list[int]) -> None:
        for step, path in _candidates(parent):
            if step not in kept or path.suffix == ".replaced":
                _remove(path)
        sync_folder(parent)
        referenced = {
            log.folder / segment.file_name for log in self._logs.values() for segment in log.segments
        }
        for _, path in [*_candidates(self.folder), *_candidates(self.folder / "best")]:
            referenced.update(self._referenced(path))
        remove_unreferenced(self.folder / "streams", referenced)

    def _referenced(self, checkpoint: Path) -> Iterator[Path]:
        try:
            streams = read_manifest(checkpoint).streams
        except DamagedError:
            return
        for name, entry in streams.items():
            for segment in entry.segments:
                yield self.folder / "streams" / name / segment.file_name

    # ---- reading

    def _first_sound(self, candidates: list[Path], adopt: bool) -> tuple[int, LoadedState]:
        last_error = None
        for path in candidates:
            try:
                manifest, state = self._read(path)
            except DamagedError as error:
                self._report(f"damaged checkpoint passed over: {error}")
                last_error = error
                continue
            if adopt:
                self._adopt(manifest)
            return manifest.step, state
        raise DamagedError(f"no sound checkpoint in {self.folder}; the last one tried: {last_error}")

    def _read(self, checkpoint: Path) -> tuple[Manifest, LoadedState]:
        manifest = read_manifest(checkpoint)
        if checkpoint.name.split(".")[0] != f"{manifest.step:012d}":
            raise DamagedError(f"{checkpoint}: its manifest says step {manifest.step}")
        streams = {
            name: self._open_stream(checkpoint, name, entry) for name, entry in manifest.streams.items()
        }
        try:
            tree = json.loads(read_verified(checkpoint / _STATE, manifest.files[_STATE]))
            arrays = read_arrays(checkpoint / _ARRAYS, manifest.files[_ARRAYS])
            return manifest, put_together(tree, arrays, streams)
        except (KeyError, ValueError, AttributeError) as error:
            raise DamagedError(f"{checkpoint}: its files do not fit together ({error})") from error

    def _open_stream(self, checkpoint: Path, name: str, entry: StreamEntry) -> LoadedStream:
        folder = self.folder / "streams" / name
        files = [(folder / segment.file_name, segment) for segment in entry.segments]
        if entry.tail:
            files.append((checkpoint / tail_name(name), entry.tail))
        for path, segment in files:
            verify(path, segment.sum)
        return LoadedStream(entry.first, entry.last, tuple(files))

    def _adopt(self, manifest: Manifest) -> None:
        """The streams go on where the loaded checkpoint ended, not where a lost future did."""
        self._background.finish()
        self._logs = {}
        for name, entry in manifest.streams.items():
            self._log(name).segments = list(entry.segments)


def _candidates(parent: Path) -> list[tuple[int, Path]]:
    """(step, path) of what may be a checkpoint, best first; `.replaced`: cut short while replaced."""
    if not parent.is_dir():
        return []
    found = [(match, path) for path in parent.iterdir() if (match := _NAME.fullmatch(path.name))]
    found.sort(key=lambda item: (-int(item[0][1]), item[0][2] is not None))
    return [(int(match[1]), path) for match, path in found]


def _replace(final: Path, partial: Path) -> None:
    """Gives `partial` its name; what had it stays readable as `.replaced` until that is done."""
    if final.exists():
        replaced = final.with_name(f"{final.name}.replaced")
        _remove(replaced)
        final.rename(replaced)
    partial.rename(final)
    sync_folder(final.parent)


def _remove(path: Path) -> None:
    """Takes the name away first: what is half removed must not look like a damaged checkpoint."""
    if path.is_dir():
        hidden = path.with_name(f".{path.name}.partial")
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)
