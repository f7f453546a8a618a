"""What the ranks other than the first do: make services and run the calls that rank 0 sends, until it ends them."""

import functools
import itertools
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, final

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
    if not job.is_settled(0.0):
        return False
    others, message = range(1, job.size), pickle.dumps(EndMessage())
    sent = [BytesSending(job.communicator, message, rank, CALL_TAG) for rank in others]
    answers = [BytesReceiving(job.communicator, rank, REPLY_TAG) for rank in others]
    return wait_until(lambda: all(each.is_done() for each in itertools.chain(sent, answers)), _END_SECONDS)


def serve(job: MpiJob) -> NoReturn:
    """This rank's whole life in the job."""
    # Launchers hand signals to all ranks. Rank 0 decides what they mean; it may want to save first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    server = _Server(job)
    try:
        while server.answer(server.next()):
            pass
    except BaseException:
        traceback.print_exc()
        job.abort(1)
    job.finalize(0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        0
    )  # before rank 0, which knows whether all is well: launchers have words of their own for who is late


@final
class _Server:
    """One rank's service, of one fleet at a time."""

    def __init__(self, job: MpiJob) -> None:
        self._job = job
        self._service: Any = None
        self._failure: BaseException | None = None
        self._group: MpiGroup | None = None
        self._who = ""

    def next(self) -> Message:
        """What rank 0 says next."""
        receiving = BytesReceiving(self._job.communicator, 0, CALL_TAG)
        self._wait_for_rank_0(receiving.is_done)
        return pickle.loads(receiving.bytes())  # noqa: S301 - from rank 0 of this job

    def _wait_for_rank_0(self, is_done: Callable[[], bool]) -> None:
        """It may be busy for as long as it likes, but once the group is broken it has to end the job."""
        group, patience_seconds = self._group, _FOREVER_SECONDS
        if group is not None and group.broken is not None:
            # Who was late already gets no second time; who computes comes to the next round before that is over.
            patience_seconds = _END_SECONDS + (0.0 if group.late_rank == 0 else group.timeout_seconds)
        if not wait_until(is_done, patience_seconds) and group is not None:
            sys.stderr.write(f"qfleet: {group.broken}, and rank 0 has not ended the job since\n")
            self._job.abort(1)

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
        self._wait_for_rank_0(BytesSending(self._job.communicator, data, 0, REPLY_TAG).is_done)


def _loaded_maker(data: bytes) -> Callable[[MpiGroup], Any]:
    """What makes the service, with all that it imports; if that fails, it does when it is called."""
    try:
        return pickle.loads(data)  # noqa: S301 - from rank 0 of this job
    except BaseException as error:
        return functools.partial(_raise, error)


def _raise(error: BaseException, group: MpiGroup) -> None:
    raise error
