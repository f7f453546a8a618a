"""Where the members of a group live: what machines and processes are called, and who shares which."""

import os
import secrets
from pathlib import Path

import numpy as np

from qfleet.fleet import Group

_THIS_PROCESS = secrets.token_hex(8)


def machine() -> str:
    """What no other machine is called, nor this one before it was started last."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process() -> str:
    """What no other process is called, on any machine."""
    return f"{os.getpid()}/{_THIS_PROCESS}"


def network() -> str:
    """What is the same for processes that can meet on the loopback."""
    return f"{machine()}/{Path('/proc/self/ns/net').stat().st_ino}"


def tell_all(group: Group, text: str) -> list[str]:
    """What every member says, in the order of ranks; all call it together."""
    own = np.frombuffer(text.encode(), np.uint8)
    return [part.tobytes().decode() for part in group.exchange([own] * group.size)]


def local_rank(group: Group) -> int:
    """How many members of lower ranks live on this member's machine; all call it together."""
    return tell_all(group, machine())[: group.rank].count(machine())


def have_gpus_of_their_own(group: Group, gpu: str) -> bool:
    """Whether no two members have the same GPU, or live in one process, and all have one; all call it together.

    `gpu` is what this member's is called, empty if it has none.
    """
    gpus, processes = zip(*(said.split(" ") for said in tell_all(group, f"{gpu} {process()}")), strict=True)
    return "" not in gpus and len(set(gpus)) == len(set(processes)) == group.size
