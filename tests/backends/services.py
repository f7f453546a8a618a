"""A service that tests of single services call, and the backends that have them."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Answer, Board

SERVICE_BACKENDS = ["threads", "processes", "ray"]
LARGE = 1_000_000
"""Bytes of an array that does not travel among a message's bytes."""


class NotSentError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Worker:
    """Makes arrays, takes arrays, naps and fails."""

    def __init__(self, board: Board | None = None) -> None:
        self.board, self.seen, self.last = board, list[int](), -1

    def note(self, number: int, *others: Any) -> list[int]:
        self.seen.append(number)
        return list(self.seen)

    def make(self, size: int, value: int, seconds: float = 0.0) -> dict[str, Any]:
        time.sleep(seconds)
        return {"array": np.full(size, value, np.uint8), "value": value}

    def answer(self, size: int, value: int) -> Answer:
        """How many bytes to its caller, and the bytes to others."""
        return Answer(size, self.make(size, value))

    def double(self, made: dict[str, Any]) -> dict[str, Any]:
        return {"array": made["array"] * 2, "value": made["value"] * 2}

    def total(self, *made: dict[str, Any]) -> list[tuple[int, int]]:
        return [(int(one["array"].sum()), one["value"]) for one in made]

    def place(self, *values: Any) -> list[str]:
        return [type(value).__name__ for value in values]

    def write_to(self, array: NDArray[Any]) -> int:
        array[0] = 7
        return int(array[0])

    def fail(self, kind: str) -> None:
        raise {"value": ValueError("no such block"), "not sent": NotSentError(1, 2)}[kind]

    def nap(self, seconds: float) -> None:
        time.sleep(seconds)

    def memory_bytes(self) -> int:
        return memory_bytes()

    def process_id(self) -> int:
        return os.getpid()

    def publish(self, board: Board, first: int, last: int, size: int) -> int:
        """Versions first to last, each filled with its number."""
        for version in range(first, last + 1):
            board.write(version, np.full(size, version % 251, np.uint8))
        return last

    def publish_for(self, seconds: float, size: int) -> int:
        """The same through its own board, as fast as it can."""
        assert self.board is not None
        started, version = time.monotonic(), 0
        while time.monotonic() - started < seconds:
            version += 1
            self.board.write(version, np.full(size, version % 251, np.uint8))
        return version

    def read(self, newer_than: int) -> tuple[int, int, int] | None:
        """Version, size, and the one value that all bytes have."""
        assert self.board is not None
        return _seen(self.board, newer_than)

    def read_until(self, version: int, seconds: float) -> tuple[int, int]:
        """How many versions it has seen, each whole and newer than the one before, and the last of them."""
        assert self.board is not None
        deadline, last, count = time.monotonic() + seconds, 0, 0
        while last < version and time.monotonic() < deadline:
            if (found := _seen(self.board, last)) is not None:
                assert found[0] > last and found[2] == found[0] % 251
                last, count = found[0], count + 1
        return count, last


def _seen(board: Board, newer_than: int) -> tuple[int, int, int] | None:
    found = board.read(newer_than)
    if found is None:
        return None
    version, content = found
    assert content.dtype == np.uint8 and not content.flags.writeable
    assert content.min() == content.max(), "a torn read"
    return version, content.size, int(content[0])


def memory_bytes() -> int:
    """This process's own memory, without what it shares."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
