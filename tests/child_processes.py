"""Processes that this one has started."""

import psutil


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
