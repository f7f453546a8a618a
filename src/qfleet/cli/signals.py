"""What a command says and returns after a signal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qfleet.interruption import Interrupted, Interruption
from qfleet.runs.folder import RunFolder


def exit_code(interruption: Interruption) -> int:
    """0, or what shells expect of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + interruption.signal_number if interruption else 0


def say_how_to_go_on(run: object) -> None:
    """One line on standard error."""
    print(f"qfleet: interrupted; go on with: qfleet resume {run}", file=sys.stderr)


@contextmanager
def resumable(folder: RunFolder) -> Iterator[None]:
    """Says how to go on with a run whose orderly end took too long, and exits."""
    try:
        yield
    except Interrupted as interrupted:
        if not folder.has_begun:
            raise
        say_how_to_go_on(folder.path)
        raise SystemExit(128 + interrupted.signal_number) from None
