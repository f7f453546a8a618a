"""What the ranks other than the first do: make services and run the calls that rank 0 sends, until it ends them."""

import functools
import itertools
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from qfleet.backends.futures import one_line
from qfleet.backends.mpi_group import MpiGroup
from qfleet.backends.mpi_job import CALL_TAG, REPLY_TAG, MpiJob
from qfleet.backends.mpi_messages import BytesReceiving, BytesSending, wait_until
from qfleet.backends.replies import dump_failure, dump_result

_FOREVER_SECONDS = float("inf")
_END_SECONDS = 5.0


@dataclass(frozen=True)
class StartMessage:
    """Make a service as a member of a new group; answered once the maker has been read, with all its imports."""

    names: list[str]
    timeout_seconds: float
    search_path: list[str]
    """Of modules, on rank 0."""
    maker: bytes


@dataclass(frozen=True)
class CallMessage:
    """Run a method; answered with what came of it."""

    method: str
    arguments: bytes


@dataclass(frozen=True)
class CloseMessage:
    """Forget the service."""


@dataclass(frozen=True)
class EndMessage:
    """Leave the job; answered, so that rank 0 knows that this rank is there to leave it."""


Message = StartMessage | CallMessage | CloseMessage | EndMessage


def end_servers(job: MpiJob) -> bool:
    """Asks all other ranks to leave the job; False if one does not answer, and the job has to be aborted."""
    if job.is_broken:
        return False
    others, message = range(1, job.size), pickle.dumps(EndMessage())
    sent = [BytesSending(job.communicator, message, rank, CALL_TAG) for rank in others]
    answers = [BytesReceiving(job.communicator, rank, REPLY_TAG) for rank in others]
    return wait_until(lambda: all(each.is_done() for each in itertools.chain(sent, answers)), _END_SECONDS)


def serve(job: MpiJob) -> int:
    """This rank's whole life in the job; gives its exit code."""
    # Launchers hand signals to all ranks. Rank 0 decides what they mean; it may want to save first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = _Server(job)
    try:
        while server.answer(_next(job)):
            pass
    except BaseException:
        traceback.print_exc()
        job.abort(1)
    job.finalize(0)
    return 0


def _next(job: MpiJob) -> Message:
    receiving = BytesReceiving(job.communicator, 0, CALL_TAG)
    wait_until(receiving.is_done, _FOREVER_SECONDS)
    return pickle.loads(receiving.bytes())  # noqa: S301 - from rank 0 of this job


@final
class _Server:
    """One rank's service, of one fleet at a time."""

    def __init__(self, job: MpiJob) -> None:
        self._job = job
        self._service: Any = None
        self._failure: BaseException | None = None
        self._group: MpiGroup | None = None
        self._who = ""

    def answer(self, message: Message) -> bool:
        """Does what a message says; False after the last one."""
        if isinstance(message, StartMessage):
            self._start(message)
        elif isinstance(message, CallMessage):
            self._reply(self._run(message))
        elif isinstance(message, CloseMessage):
            self._service = self._failure = self._group = None
        else:
            self._reply(dump_result(None))
        return not isinstance(message, EndMessage)

    def _start(self, message: StartMessage) -> None:
        sys.path += [folder for folder in message.search_path if folder not in sys.path]
        self._group = self._job.make_group(message.names, message.timeout_seconds)
        self._who = self._job.who(message.names[self._job.rank], self._job.rank)
        make = _loaded_maker(message.maker)
        self._reply(dump_result(None))
        try:
            self._service = make(self._group)
        except BaseException as error:  # told to whoever calls
            self._failure = error
            self._tell_group(error)

    def _run(self, message: CallMessage) -> bytes:
        try:
            if self._failure is not None:
                raise self._failure
            arguments = pickle.loads(message.arguments)  # noqa: S301 - from rank 0 of this job
            return dump_result(getattr(self._service, message.method)(*arguments))
        except BaseException as error:  # told to whoever waits for the result
            self._tell_group(error)
            return dump_failure(error)

    def _tell_group(self, error: BaseException) -> None:
        """Nobody is to wait for a member that has left its work in the middle."""
        if self._group is not None:
            self._group.break_up(f"{self._who} failed with {one_line(error)}")

    def _reply(self, data: bytes) -> None:
        wait_until(BytesSending(self._job.communicator, data, 0, REPLY_TAG).is_done, _FOREVER_SECONDS)


def _loaded_maker(data: bytes) -> Callable[[MpiGroup], Any]:
    """What makes the service, with all that it imports; if that fails, it does when it is called."""
    try:
        return pickle.loads(data)  # noqa: S301 - from rank 0 of this job
    except BaseException as error:
        return functools.partial(_raise, error)


def _raise(error: BaseException, group: MpiGroup) -> None:
    raise error
