"""The life of a service's process: make the service, run its calls, end with the parent.

The process is a fresh interpreter that is started with nothing but descriptors, and so needs nothing of the
parent's main module: scripts without a main guard, notebooks and standard input work.
"""

import functools
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

from qfleet.backends.control_block import ControlBlock
from qfleet.backends.futures import one_line
from qfleet.backends.mailbox import Mailbox
from qfleet.backends.message_memory import Packed, pack
from qfleet.backends.process_board import inherit
from qfleet.backends.process_channel import Channel
from qfleet.backends.process_group import ProcessGroup
from qfleet.backends.replies import dump_failure, dump_result, load_reply
from qfleet.backends.service_pickling import load_maker
from qfleet.backends.shared_memory import Segment
from qfleet.fleet import Answer

COMMAND = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from qfleet.backends.process_child import main
main(int(sys.argv[2]))
"""
"""What the interpreter is started with; its arguments are the parent's module search path and a pipe."""
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


@dataclass(frozen=True)
class Reply:
    """What a call came to: by `replies`."""

    is_result: bool
    """Else it has failed."""
    packed: Packed
    """For the caller."""
    given: Packed | None = None
    """For other services, if that is something else."""
    who: str = ""
    """Who has run it, for errors; the parent knows."""

    def handed_on(self) -> "Reply":
        """What another service is sent of it."""
        return self if self.given is None else replace(self, packed=self.given, given=None)

    def value(self) -> Any:
        """The method's return value, its arrays the caller's own; raises what the method raised."""
        return load_reply(self.packed.data, self.who, self.packed.copies())

    def lent_value(self) -> Any:
        """The same; its large arrays lie in memory that others may be reading, and are read-only."""
        return load_reply(self.packed.data, self.who, self.packed.views())


@dataclass(frozen=True)
class Call:
    """A message to a process: run a method."""

    method: str
    own: Packed
    """Those of the arguments that are no futures, as a tuple."""
    places: tuple[int, ...] = ()
    """Where among all arguments those stand that other calls came to."""
    given: tuple[Reply, ...] = ()

    def arguments(self) -> list[Any]:
        """All of them, in their order."""
        found = list(pickle.loads(self.own.data, buffers=self.own.copies()))  # noqa: S301 - the parent's
        for place, reply in zip(self.places, self.given, strict=True):
            found.insert(place, reply.lent_value())
        return found


MAKE = Call("__init__", Packed(pickle.dumps(())))
"""The first call, which makes the service."""


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
    calls = Channel(socket.socket(fileno=pipe))
    try:
        start: ServiceStart = calls.receive()
        for descriptor in start.descriptors():
            os.set_inheritable(descriptor, False)
        threading.Thread(target=_end_with_parent, args=(start.parent,), daemon=True).start()
        _serve(start, calls)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone or has closed us


def _serve(start: ServiceStart, calls: Channel) -> None:
    member = _Member(start.membership) if start.membership else None
    make = _maker(start, member)
    calls.send(Reply(True, Packed(dump_result(None))))
    service: Any = None
    while (call := calls.receive()) is not None:
        try:
            if call.method == MAKE.method:
                service, result = make(), None
            else:
                result = getattr(service, call.method)(*call.arguments())
            reply = _reply_with(result)
        except BaseException as error:  # told to whoever waits for the result
            if member is not None:
                member.fail(error)
            reply = Reply(False, Packed(dump_failure(error)))
        calls.send(reply)
        del call, reply  # while it waits for the next call, it holds nothing of this one
        result = None


def _reply_with(result: Any) -> Reply:
    if isinstance(result, Answer):
        return Reply(True, _packed(result.told), _packed(result.given))
    return Reply(True, _packed(result))


def _packed(value: Any) -> Packed:
    return pack(functools.partial(dump_result, value))


def _maker(start: ServiceStart, member: _Member | None) -> Callable[[], Any]:
    """What makes the service, with all that it imports; if that fails, it does when it is called."""
    try:
        make = _loaded_maker(start)
    except BaseException as error:
        return functools.partial(_raise, error)
    return functools.partial(make, member.group) if member is not None else make


def _loaded_maker(start: ServiceStart) -> Callable[..., Any]:
    shared = [Segment(*segment) for segment in start.shared]
    inherit(shared)
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
