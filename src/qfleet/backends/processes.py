"""Services as processes of this machine."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, final

from numpy.typing import DTypeLike, NDArray

from qfleet.backends.control_block import ControlBlock
from qfleet.backends.mailbox import FIRST_BYTES
from qfleet.backends.process_child import Membership, ServiceStart
from qfleet.backends.process_handle import ProcessHandle
from qfleet.backends.service_pickling import Buffers, dump_maker
from qfleet.backends.shared_memory import Segment, SharedArrays, pack_buffers
from qfleet.errors import FleetError
from qfleet.fleet import Group

_START_SECONDS = 120.0
_CLOSE_SECONDS = 1.8


@final
class GroupMemory:
    """The memory of one group, as the parent keeps it: to say that a member is gone."""

    def __init__(self, names: Sequence[str], timeout_seconds: float) -> None:
        size = len(names)
        self._names, self._timeout_seconds = list(names), timeout_seconds
        self._segment = Segment.create(ControlBlock.num_bytes(size), "a group")
        self._mailboxes = [Segment.create(FIRST_BYTES, "a group") for _ in range(2 * size)]
        for mailbox in self._mailboxes:
            mailbox.unmap()
        self._wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in names]
        self._control = ControlBlock(self._segment, size, self._wakers)

    def membership(self, rank: int) -> Membership:
        """A member's place."""
        boxes = [segment.descriptor for segment in self._mailboxes]
        control = self._segment.descriptor, self._segment.num_bytes
        pairs = list(zip(boxes[::2], boxes[1::2], strict=True))
        return Membership(rank, self._names, self._timeout_seconds, control, self._wakers, pairs)

    def break_up(self, reason: str) -> None:
        """Frees whoever waits in a call of the group."""
        self._control.break_up(len(self._names), reason)

    def close(self) -> None:
        """Gives the descriptors back, after all processes have ended."""
        self._control.close()
        self._segment.unmap()
        for segment in (self._segment, *self._mailboxes):
            segment.close_descriptor()
        for waker in self._wakers:
            os.close(waker)


@final
class ProcessFleet:
    """Starts services as processes."""

    shares_memory = True
    recovery = None

    def __init__(self) -> None:
        self._handles: list[ProcessHandle] = []
        self._groups: list[GroupMemory] = []
        self._shared = SharedArrays()

    def start(self, name: str, make_service: Callable[[], Any]) -> ProcessHandle:
        """Makes a service in a new process; FleetError if the maker cannot be pickled."""
        return self._start([name], [make_service], None)[0]

    def start_group(
        self, names: Sequence[str], make_services: Sequence[Callable[[Group], Any]], timeout_seconds: float
    ) -> list[ProcessHandle]:
        """Makes services in new processes, as one group; FleetError if a maker cannot be pickled."""
        group = GroupMemory(names, timeout_seconds)
        self._groups.append(group)
        return self._start(names, make_services, group)

    def shared_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeroed memory that is the same in all services whose makers hold it, or a view of it."""
        return self._shared.create(shape, dtype)

    def close(self) -> None:
        """Lets the calls made so far finish, within a short time, and ends all processes."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.ask_to_end()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for handle in handles:
            handle.end(max(0.0, deadline - time.monotonic()))
        groups, self._groups = self._groups, []
        for group in groups:
            group.close()
        self._shared.close()

    def _start(
        self, names: Sequence[str], makers: Sequence[Callable[..., Any]], group: GroupMemory | None
    ) -> list[ProcessHandle]:
        starts, frozen = self._prepared(names, makers, group)
        on_death = group.break_up if group is not None else _nobody_waits
        handles: list[ProcessHandle] = []
        try:
            for name, start in zip(names, starts, strict=True):
                handles.append(ProcessHandle(name, start, on_death))
                self._handles.append(handles[-1])
            _await_all(names, handles)
        finally:
            if frozen is not None:
                frozen.close_descriptor()
        for handle in handles:
            handle.begin()
        return handles

    def _prepared(
        self, names: Sequence[str], makers: Sequence[Callable[..., Any]], group: GroupMemory | None
    ) -> tuple[list[ServiceStart], Segment | None]:
        buffers, frozen, places = Buffers(), None, []
        dumped = [dump_maker(*pair, self._shared, buffers) for pair in zip(names, makers, strict=True)]
        if buffers.views:
            frozen, places = pack_buffers(buffers.views, "what the services hold")
        starts = [
            ServiceStart(
                parent=os.getpid(),
                maker=maker,
                shared=[(segment.descriptor, segment.num_bytes) for segment in self._shared.segments],
                frozen=(frozen.descriptor, frozen.num_bytes) if frozen is not None else None,
                buffers=[places[index] for index in used],
                membership=group.membership(rank) if group is not None else None,
            )
            for rank, (maker, used) in enumerate(dumped)
        ]
        return starts, frozen


def _nobody_waits(reason: str) -> None:
    """A service of its own has no group to tell; its calls say the reason."""


def _await_all(names: Sequence[str], handles: Sequence[ProcessHandle]) -> None:
    """Returns when all processes run, so that the group's deadlines do not count their start."""
    deadline = time.monotonic() + _START_SECONDS
    for name, handle in zip(names, handles, strict=True):
        try:
            handle.started.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            raise FleetError(f"the process of {name} has not started within {_START_SECONDS:g} s") from None
