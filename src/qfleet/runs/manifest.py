"""The manifest of a checkpoint: what every file must hold, and a digest that it must hold itself."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qfleet.errors import DamagedError
from qfleet.runs.durable import FileSum, canonical_json
from qfleet.runs.streams import Segment

MANIFEST_NAME = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class StreamEntry:
    """A stream as a checkpoint refers to it."""

    first: int
    """Number of the oldest row alive."""
    last: int
    """One more than the number of the newest row."""
    segments: tuple[Segment, ...]
    """Full segments, shared between checkpoints."""
    tail: Segment | None
    """The part-filled newest rows, in the checkpoint's own folder; None if there are none."""


@dataclass(frozen=True)
class Manifest:
    """Everything a checkpoint consists of."""

    step: int
    """Environment steps."""
    files: dict[str, FileSum]
    """The files in the checkpoint's folder but for the manifest and the tails, by name."""
    streams: dict[str, StreamEntry]
    """By path in the state."""

    def to_bytes(self) -> bytes:
        """Canonical JSON with the digest of everything else in it."""
        content: dict[str, Any] = {"format": _FORMAT, **asdict(self)}
        digest = hashlib.sha256(canonical_json(content)).hexdigest()
        return canonical_json({**content, "digest": digest})


def tail_name(stream_name: str) -> str:
    """The file in a checkpoint's folder with the newest rows of the stream `stream_name`."""
    return f"tail-{stream_name.replace('/', '+')}.safetensors"


def read_manifest(checkpoint: Path) -> Manifest:
    """Reads `checkpoint`/manifest.json; raises DamagedError unless it is byte for byte one we would write."""
    path = checkpoint / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        manifest = _parse(json.loads(data))
        sound = manifest.to_bytes() == data
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: not a manifest ({type(error).__name__})") from error
    if not sound:
        raise DamagedError(f"{path}: altered since it was written (its digest does not match)")
    return manifest


def _parse(content: dict[str, Any]) -> Manifest:
    files = {name: FileSum(**entry) for name, entry in content["files"].items()}
    return Manifest(content["step"], files, {k: _parse_stream(v) for k, v in content["streams"].items()})


def _parse_stream(entry: dict[str, Any]) -> StreamEntry:
    segments = tuple(_parse_segment(segment) for segment in entry["segments"])
    tail = _parse_segment(entry["tail"]) if entry["tail"] else None
    return StreamEntry(entry["first"], entry["last"], segments, tail)


def _parse_segment(entry: dict[str, Any]) -> Segment:
    return Segment(entry["first"], entry["last"], FileSum(**entry["sum"]))
