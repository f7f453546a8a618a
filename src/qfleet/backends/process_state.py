"""How a process is, in words for errors."""

import signal
from pathlib import Path


def how_it_ended(code: int) -> str:
    """By which signal (negative codes, as in `subprocess`) or with which exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def if_stopped(process_id: int) -> str:
    """What to add about a process that does not run at the moment because it was told so; else nothing."""
    return "; it is stopped: SIGCONT would let it go on" if _state(process_id) in ("T", "t") else ""


def is_stopped(process_id: int) -> bool:
    """Whether it got a SIGSTOP; one that a debugger holds counts as running."""
    return _state(process_id) == "T"


def _state(process_id: int) -> str:
    try:
        text = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]
