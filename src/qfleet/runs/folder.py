"""The folder of one run: made once, opened again, written by one process at a time."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qfleet.errors import DamagedError, QfleetError
from qfleet.runs.durable import canonical_json, write_atomically

_CONFIG, _SUMMARY, _LOCK = "config.json", "summary.json", "lock"


class RunFolder:
    """Paths and JSON files of the run in `path`; make one with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, environment: str, algorithm: str, seed: int, root: Path = Path("runs"), out: Path | None = None
    ) -> "RunFolder":
        """Makes `<root>/<environment>-<algorithm>-<seed>-<time>/`, or exactly `out`.

        Raises QfleetError if `out` exists and has something in it, or if no folder can be made there.
        """
        try:
            return cls(_make_unique(root, environment, algorithm, seed) if out is None else _make_exact(out))
        except OSError as error:
            raise QfleetError(f"no run folder can be made in {out or root}: {error.strerror}") from error

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run in `path`; raises QfleetError, saying what would work, if it is none."""
        if not path.is_dir():
            raise QfleetError(f"{path}: no such folder; {_what_there_is(path.parent)}")
        if not (path / _CONFIG).is_file():
            raise QfleetError(f"{path} is not a run's folder (no {_CONFIG} in it); {_what_there_is(path)}")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def has_begun(self) -> bool:
        """Whether there is anything in it that training has made."""
        metrics = self.path / "metrics.jsonl"
        return self.checkpoints.is_dir() or (metrics.is_file() and metrics.stat().st_size > 0)

    def write_config(self, config: dict[str, Any]) -> None:
        """Replaces config.json; raises QfleetError if the disk refuses."""
        self._write_json(_CONFIG, config)

    def read_config(self) -> dict[str, Any]:
        """Raises QfleetError if config.json is missing, DamagedError if it is no JSON object."""
        return self._read_json(_CONFIG)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replaces summary.json; raises QfleetError if the disk refuses."""
        self._write_json(_SUMMARY, summary)

    def read_summary(self) -> dict[str, Any]:
        """Raises QfleetError if the run has not ended, DamagedError if summary.json is no JSON object."""
        return self._read_json(_SUMMARY)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while training: raises QfleetError if another process, or this one, trains in the folder.

        The kernel lets go of it when the process ends, however it ends.
        """
        with (self.path / _LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise QfleetError(
                    f"{self.path} is in use by process {holder}; wait for it, stop it, or give another --out"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        try:
            write_atomically(self.path / name, canonical_json(content))
        except OSError as error:
            raise QfleetError(f"{self.path / name} cannot be written: {error.strerror}") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a run's file; raises QfleetError if it is missing, DamagedError if it is no JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        hint = "the run has not ended yet" if path.name == _SUMMARY else "is this a run's folder?"
        raise QfleetError(f"{path} does not exist; {hint}") from error
    except OSError as error:
        raise QfleetError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DamagedError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def latest(root: Path = Path("runs")) -> RunFolder:
    """The run in `root` that was started last; raises QfleetError if there is none."""
    runs = _runs_in(root)
    if not runs:
        raise QfleetError(f"no run in {root}; start one with: qfleet train CartPole-v1")
    return RunFolder(runs[-1])


def _runs_in(root: Path) -> list[Path]:
    """Oldest first."""
    if not root.is_dir():
        return []
    runs = [path for path in root.iterdir() if (path / _CONFIG).is_file()]
    return sorted(runs, key=lambda path: ((path / _CONFIG).stat().st_mtime_ns, path.name))


def _what_there_is(folder: Path) -> str:
    runs = _runs_in(folder)
    return f"the latest run there is {runs[-1]}" if runs else f"there is no run in {folder} either"


def _make_exact(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise QfleetError(f"--out {path} is a file; give a new or empty folder")
    if path.is_dir() and any(path.iterdir()):
        raise QfleetError(
            f"--out {path} is not empty; give a new folder, or go on with: qfleet resume {path}"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _make_unique(root: Path, environment: str, algorithm: str, seed: int) -> Path:
    name = f"{environment}-{algorithm}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}".replace("/", "-").replace(
        ":", "-"
    )
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
