"""The life of a service's process: make the service, run its calls, end with the parent.

The process is a fresh interpreter that is started with nothing but descriptors, and so needs nothing of the
parent's main module: scripts without a main guard, notebooks and standard input work.
"""

import functools
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, final

from qfleet.backends.control_block import ControlBlock
from qfleet.backends.futures import one_line
from qfleet.backends.mailbox import Mailbox
from qfleet.backends.process_group import ProcessGroup
from qfleet.backends.replies import dump_failure, dump_result
from qfleet.backends.service_pickling import load_maker
from qfleet.backends.shared_memory import Segment

COMMAND = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from qfleet.backends.process_child import main
main(int(sys.argv[2]))
"""
"""What the interpreter is started with; its arguments are the parent's module search path and a pipe."""
MAKE = "__init__"
"""The method name of the first call, which makes the service."""
_PARENT_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class Membership:
    """A process's place in a group; memory and wakers as descriptors."""

    rank: int
    names: list[str]
    timeout_seconds: float
    control: tuple[int, int]
    """Descriptor and bytes of the control block."""
    wakers: list[int]
    mailboxes: list[tuple[int, int]]

    def descriptors(self) -> list[int]:
        """All that the process must be given."""
        return [self.control[0], *self.wakers, *(number for pair in self.mailboxes for number in pair)]


@dataclass(frozen=True)
class ServiceStart:
    """The first message to a process."""

    parent: int
    """The parent's process id."""
    maker: bytes
    """See `service_pickling`."""
    shared: list[tuple[int, int]]
    """Descriptor and bytes of the segments of shared arrays."""
    frozen: tuple[int, int] | None
    """Descriptor and bytes of the segment with the makers' large arrays, if there are any."""
    buffers: list[tuple[int, int]]
    """Offset and length in it of those that this maker holds."""
    membership: Membership | None

    def descriptors(self) -> list[int]:
        """All that the process must be given."""
        frozen = [self.frozen[0]] if self.frozen else []
        members = self.membership.descriptors() if self.membership else []
        return [*(number for number, _ in self.shared), *frozen, *members]


@final
class _Member:
    """What the process knows of its group."""

    def __init__(self, membership: Membership) -> None:
        self._rank, self._name = membership.rank, membership.names[membership.rank]
        self._control = ControlBlock(Segment(*membership.control), len(membership.names), membership.wakers)
        self._control.set_process_id(self._rank, os.getpid())
        mailboxes = [(Mailbox(even), Mailbox(odd)) for even, odd in membership.mailboxes]
        self.group = ProcessGroup(
            self._rank, membership.names, self._control, mailboxes, membership.timeout_seconds
        )

    def fail(self, error: BaseException) -> None:
        """Nobody is to wait for a member that has left its work in the middle."""
        text = f"{self._name} (process {os.getpid()}) failed with {one_line(error)}"
        self._control.break_up(self._rank, text)


def main(pipe: int) -> None:
    """The process's whole life; the first message is a ServiceStart, all others are calls, None ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.set_inheritable(pipe, False)
    calls = Connection(pipe)
    try:
        start: ServiceStart = pickle.loads(calls.recv_bytes())  # noqa: S301 - the parent's pipe
        for descriptor in start.descriptors():
            os.set_inheritable(descriptor, False)
        threading.Thread(target=_end_with_parent, args=(start.parent,), daemon=True).start()
        _serve(start, calls)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone or has closed us


def _serve(start: ServiceStart, calls: Connection) -> None:
    member = _Member(start.membership) if start.membership else None
    make = _maker(start, member)
    calls.send_bytes(dump_result(None))
    service: Any = None
    while (call := pickle.loads(calls.recv_bytes())) is not None:  # noqa: S301 - the parent's pipe
        method, arguments = call
        try:
            if method == MAKE:
                service, result = make(), None
            else:
                result = getattr(service, method)(*pickle.loads(arguments))  # noqa: S301 - the parent's pipe
            reply = dump_result(result)
        except BaseException as error:  # told to whoever waits for the result
            if member is not None:
                member.fail(error)
            reply = dump_failure(error)
        calls.send_bytes(reply)


def _maker(start: ServiceStart, member: _Member | None) -> Callable[[], Any]:
    """What makes the service, with all that it imports; if that fails, it does when it is called."""
    try:
        make = _loaded_maker(start)
    except BaseException as error:
        return functools.partial(_raise, error)
    return functools.partial(make, member.group) if member is not None else make


def _loaded_maker(start: ServiceStart) -> Callable[..., Any]:
    shared = [Segment(*segment) for segment in start.shared]
    buffers: list[memoryview] = []
    if start.frozen is not None:
        memory = memoryview(Segment(*start.frozen).memory).toreadonly()
        buffers = [memory[offset : offset + length] for offset, length in start.buffers]
    return load_maker(start.maker, shared, buffers)


def _raise(error: BaseException) -> None:
    raise error


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent, even while a call is taking for ever."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
