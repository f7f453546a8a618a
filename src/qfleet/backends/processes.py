"""Services as processes of this machine."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qfleet.backends.budget import num_cores
from qfleet.backends.control_block import ControlBlock
from qfleet.backends.mailbox import FIRST_BYTES
from qfleet.backends.process_board import ProcessBoard, board_bytes
from qfleet.backends.process_child import Membership, ServiceStart
from qfleet.backends.process_handle import ProcessHandle
from qfleet.backends.service_pickling import Buffers, dump_maker
from qfleet.backends.shared_memory import Segment, SharedArrays, pack_buffers
from qfleet.errors import FleetError
from qfleet.fleet import Future, Group, Handle

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

    def __init__(self) -> None:
        self._handles: list[ProcessHandle] = []
        self._groups: list[tuple[list[ProcessHandle], GroupMemory]] = []
        self._shared = SharedArrays()

    @property
    def recovery(self) -> "ProcessRecovery":
        """Processes can be replaced; what they hand over is kept here."""
        return ProcessRecovery(self)

    def start(self, name: str, make_service: Callable[[], Any]) -> ProcessHandle:
        """Makes a service in a new process; FleetError if the maker cannot be pickled."""
        return self._start([name], [make_service], None)[0]

    def start_group(
        self, names: Sequence[str], make_services: Sequence[Callable[[Group], Any]], timeout_seconds: float
    ) -> list[ProcessHandle]:
        """Makes services in new processes, as one group; FleetError if a maker cannot be pickled."""
        group = GroupMemory(names, timeout_seconds)
        handles: list[ProcessHandle] = []
        self._groups.append((handles, group))
        handles += self._start(names, make_services, group)
        return handles

    def shared_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeroed memory that is the same in all services whose makers hold it, or a view of it."""
        return self._shared.create(shape, dtype)

    def board(self, num_bytes: int) -> ProcessBoard:
        """A board in shared memory; services that are started after this can use it."""
        memory = self._shared.create((board_bytes(num_bytes),), np.uint8)
        return ProcessBoard(memory, len(self._shared.segments) - 1, num_bytes)

    def close(self) -> None:
        """Lets the calls made so far finish, within a short time, and ends all processes."""
        for handle in self._handles:
            handle.ask_to_end()
        self.end(list(self._handles), _CLOSE_SECONDS)
        groups, self._groups = self._groups, []
        for _, group in groups:
            group.close()
        self._shared.close()

    def end(self, handles: Sequence[ProcessHandle], timeout_seconds: float) -> None:
        """Waits a moment for the ends that were asked for, then makes them."""
        deadline = time.monotonic() + timeout_seconds
        for handle in handles:
            handle.end(max(0.0, deadline - time.monotonic()))
        self._handles = [handle for handle in self._handles if handle not in handles]

    def close_groups_of(self, handles: Sequence[ProcessHandle]) -> None:
        """Gives back the memory of groups all of whose members have ended."""
        over = [pair for pair in self._groups if all(handle in handles for handle in pair[0])]
        for pair in over:
            pair[1].close()
            self._groups.remove(pair)

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


@final
class ProcessRecovery:
    """What can be done about processes that are gone, or hang."""

    def __init__(self, fleet: ProcessFleet) -> None:
        self._fleet = fleet

    def keep(self, handle: Handle, method: str, *arguments: Any) -> Future:
        """A call whose result this process has, and so keeps; it stands for itself."""
        return handle.call(method, *arguments)

    def forget(self, kept: Sequence[Any]) -> None:
        """There is nothing to do: memory is freed with the last reference."""

    def end(self, handles: Sequence[Handle]) -> None:
        """Ends the processes at once, and frees their groups' memory."""
        ours = [handle for handle in handles if isinstance(handle, ProcessHandle)]
        for handle in ours:
            handle.kill()
        self._fleet.end(ours, 0.0)
        self._fleet.close_groups_of(ours)

    def room(self) -> int:
        """As many as this machine has cores."""
        return num_cores()


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
