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
    try:
        text = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return ""
    return "; it is stopped: SIGCONT would let it go on" if text.rpartition(")")[2].split()[0] in "Tt" else ""
