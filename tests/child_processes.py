"""Processes that this one has started."""

from collections.abc import Iterable

import psutil


def by_age(process_ids: Iterable[int]) -> list[int]:
    """The oldest first: by when they began, as numbers begin anew when the largest has been given."""
    return sorted(process_ids, key=lambda number: (psutil.Process(number).create_time(), number))


def newest(process_ids: Iterable[int]) -> int:
    """The one that was started last."""
    return by_age(process_ids)[-1]


def children(command: str = "") -> set[int]:
    """Process ids of those that run now, of commands that contain `command`."""
    found = set()
    for process in psutil.Process().children():
        try:
            runs = process.status() != psutil.STATUS_ZOMBIE and command in " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if runs:
            found.add(process.pid)
    return found
