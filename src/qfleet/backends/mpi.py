"""Services as the ranks of an MPI job: rank 0 drives them, and is the first of them itself."""

import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, final

import cloudpickle
import numpy as np
from numpy.typing import DTypeLike, NDArray

from qfleet.backends.futures import one_line
from qfleet.backends.mpi_group import MpiGroup
from qfleet.backends.mpi_job import CALL_TAG, REPLY_TAG, MpiJob
from qfleet.backends.mpi_messages import BytesReceiving, BytesSending, wait_until
from qfleet.backends.mpi_server import CallMessage, CloseMessage, Message, StartMessage
from qfleet.backends.replies import load_reply
from qfleet.errors import FleetError
from qfleet.fleet import Group

_START_SECONDS = 120.0
_CLOSE_SECONDS = 2.0
_STALLED = 2


@final
class OwnHandle:
    """The service of rank 0, which runs when its result is asked for: MPI is called from one thread."""

    def __init__(self, who: str, make_service: Callable[[], Any], group: MpiGroup | None = None) -> None:
        self.who, self._group = who, group
        self._calls: deque[OwnFuture] = deque()
        self._service: Any = None
        self._failure: Exception | None = None
        try:
            self._service = make_service()
        except Exception as error:  # told to whoever calls
            self._failure = error
            self._tell_group(error)

    def call(self, method: str, *arguments: Any) -> "OwnFuture":
        """Notes a method call down."""
        self._calls.append(OwnFuture(self, method, arguments))
        return self._calls[-1]

    def run_up_to(self, last: "OwnFuture", timeout_seconds: float) -> None:
        """Runs the calls made so far, in order, to the end of `last`; ends the process if it takes longer."""
        over = threading.Event()
        watched = timeout_seconds, over, f"{self.who} has not finished {last.method} within"
        threading.Thread(target=self._watch, args=watched, daemon=True).start()
        try:
            while last in self._calls:
                self._run(self._calls.popleft())
        finally:
            over.set()

    def _run(self, future: "OwnFuture") -> None:
        try:
            if self._failure is not None:
                raise self._failure
            future.value = getattr(self._service, future.method)(*future.arguments)
        except Exception as error:  # told to whoever asks for the result
            future.error = error
            self._tell_group(error)
        except BaseException as error:  # a signal: nobody is to wait for what it has cut off
            self._tell_group(error)
            raise

    def _watch(self, timeout_seconds: float, over: threading.Event, text: str) -> None:
        """Nobody else can end a call that never returns. While the group waits, its own deadline counts."""
        while not over.wait(timeout_seconds):
            if self._group is None or not self._group.is_waiting:
                sys.stderr.write(f"qfleet: {text} {timeout_seconds:g} s\n")
                sys.stderr.flush()
                os._exit(_STALLED)  # the launcher ends all other ranks

    def _tell_group(self, error: BaseException) -> None:
        if self._group is not None:
            self._group.break_up(f"{self.who} failed with {one_line(error)}")


@final
class OwnFuture:
    """What a call of rank 0's own service will give."""

    def __init__(self, handle: OwnHandle, method: str, arguments: tuple[Any, ...]) -> None:
        self.method, self.arguments, self._handle = method, arguments, handle
        self.value: Any = None
        self.error: Exception | None = None

    def result(self, timeout_seconds: float) -> Any:
        """See `qfleet.fleet.Future.result`; a call that takes longer ends the job, with one line."""
        self._handle.run_up_to(self, timeout_seconds)
        if self.error is not None:
            self.error.add_note(f"In {self._handle.who}")
            raise self.error
        return self.value

    def when_done(self, callback: Callable[[], None]) -> None:
        """FleetError: what this process does itself it does when it is asked for the result."""
        raise _meets_in_groups()


@final
class RankHandle:
    """The service of another rank."""

    def __init__(self, job: MpiJob, rank: int, name: str) -> None:
        self._job, self._rank, self.who = job, rank, job.who(name, rank)
        self._sent: list[BytesSending] = []
        self._unanswered: deque[RankFuture] = deque()
        self._receiving: BytesReceiving | None = None

    def send(self, message: Message, doing: str) -> "RankFuture":
        """Sends a message that will be answered."""
        self.tell(message)
        self._unanswered.append(RankFuture(self, doing))
        return self._unanswered[-1]

    def tell(self, message: Message) -> None:
        """Sends a message that will not be answered."""
        self._sent = [sending for sending in self._sent if not sending.is_done()]
        self._sent.append(BytesSending(self._job.communicator, pickle.dumps(message), self._rank, CALL_TAG))

    def call(self, method: str, *arguments: Any) -> "RankFuture":
        """Sends a method call; FleetError if its arguments cannot be sent."""
        try:
            data = cloudpickle.dumps(arguments, protocol=5)
        except Exception as error:
            raise FleetError(
                f"the arguments of {method} cannot be sent to {self.who} ({one_line(error)})"
            ) from error
        return self.send(CallMessage(method, data), method)

    def await_answer(self, last: "RankFuture", timeout_seconds: float) -> None:
        """Takes answers, which come in the order of the calls, up to that of `last`; FleetError if it is late."""
        deadline = time.monotonic() + timeout_seconds
        while last in self._unanswered:
            if self._receiving is None:
                self._receiving = BytesReceiving(self._job.communicator, self._rank, REPLY_TAG)
            if not wait_until(self._receiving.is_done, deadline - time.monotonic()):
                raise FleetError(f"{self.who} has not finished {last.doing} within {timeout_seconds:g} s")
            self._unanswered.popleft().reply = self._receiving.bytes()
            self._receiving = None

    def is_free(self, timeout_seconds: float) -> bool:
        """Whether it has answered everything when so much time has passed."""
        try:
            if self._unanswered:
                self.await_answer(self._unanswered[-1], timeout_seconds)
        except FleetError:
            return False
        return True


@final
class RankFuture:
    """What a call of another rank's service will give."""

    def __init__(self, handle: RankHandle, doing: str) -> None:
        self.doing, self._handle = doing, handle
        self.reply: bytes | None = None

    def result(self, timeout_seconds: float) -> Any:
        """See `qfleet.fleet.Future.result`."""
        self._handle.await_answer(self, timeout_seconds)
        assert self.reply is not None, "it was waited for"
        return load_reply(self.reply, self._handle.who)

    def when_done(self, callback: Callable[[], None]) -> None:
        """FleetError: ranks are heard only when they are waited for."""
        raise _meets_in_groups()


@final
class MpiFleet:
    """Starts groups with one service on each rank of this process's job, of which it is rank 0."""

    shares_memory = False
    recovery = None

    def __init__(self, job: MpiJob) -> None:
        self._job = job
        self._ranks: list[RankHandle] = []

    def start(self, name: str, make_service: Callable[[], Any]) -> OwnHandle:
        """Makes a service here: all other ranks are members of groups."""
        return OwnHandle(self._job.who(name, 0), make_service)

    def start_group(
        self, names: Sequence[str], make_services: Sequence[Callable[[Group], Any]], timeout_seconds: float
    ) -> list[OwnHandle | RankHandle]:
        """Makes one service on each rank; FleetError if there are more or fewer, or one cannot be pickled."""
        job = self._job
        if len(names) != job.size or self._ranks:
            raise FleetError(
                f"an MPI job of {job.size} ranks has one group of {job.size} members at a time; got {len(names)}"
            )
        if not job.is_settled(_START_SECONDS):
            raise FleetError(
                f"a rank of this MPI job still works on a call of an earlier group after {_START_SECONDS:g} s; "
                "start the job again"
            )
        makers = [_dumped(*pair) for pair in zip(names[1:], make_services[1:], strict=True)]
        self._ranks = [RankHandle(job, rank, names[rank]) for rank in range(1, job.size)]
        futures = [
            handle.send(StartMessage(list(names), timeout_seconds, sys.path, maker), "starting")
            for handle, maker in zip(self._ranks, makers, strict=True)
        ]
        group = job.make_group(list(names), timeout_seconds)
        deadline = time.monotonic() + _START_SECONDS
        for future in futures:
            future.result(max(0.0, deadline - time.monotonic()))
        own = OwnHandle(job.who(names[0], 0), lambda: make_services[0](group), group)
        return [own, *self._ranks]

    def shared_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """FleetError: ranks share no memory."""
        raise FleetError(
            f"--backend mpi: a shared array of shape {shape} {np.dtype(dtype)} cannot be, as ranks share no memory; "
            "--topology averaged and partitioned need none"
        )

    def board(self, num_bytes: int) -> NoReturn:
        """FleetError: ranks tell one another arrays in rounds."""
        raise _meets_in_groups()

    def close(self) -> None:
        """Lets the calls made so far finish, within a short time; while a rank owes an answer there is no new group."""
        ranks, self._ranks = self._ranks, []
        deadline = time.monotonic() + _CLOSE_SECONDS
        for handle in ranks:
            if not handle.is_free(max(0.0, deadline - time.monotonic())):
                self._job.owed.append(handle.is_free)
            handle.tell(CloseMessage())


def _meets_in_groups() -> FleetError:
    return FleetError(
        "--backend mpi: services meet in rounds only; topologies whose services work at times of their own need "
        "--backend threads, processes or ray"
    )


def _dumped(name: str, maker: Any) -> bytes:
    try:
        return cloudpickle.dumps(maker, protocol=5)
    except Exception as error:
        raise FleetError(
            f"what makes {name} cannot be sent to another process ({one_line(error)}); the backend threads needs "
            "not send it"
        ) from error
