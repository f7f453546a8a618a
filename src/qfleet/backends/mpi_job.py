"""One job of MPI ranks: rank 0 runs the program, all others work for it until it ends."""

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np

from qfleet.backends.budget import num_cores, set_thread_budget
from qfleet.backends.mpi_group import TAGS_OF_A_GROUP, MpiGroup
from qfleet.backends.mpi_library import MPI

CALL_TAG, REPLY_TAG = 0, 1
_FIRST_GROUP_TAG = 2
_HOST_BYTES = 64
_JOIN_SECONDS = 300.0
"""Until all ranks have come; the job's folder of modules may be far away."""
_FINALIZE_SECONDS = 5.0
_STANDARD_ERROR = 2
_LAST_WORDS_SECONDS = 0.2
"""Until what was written has passed through the launcher, which ends with the job."""


@final
class MpiJob:
    """This rank's place among all; there is one in a process, from `join` to its end."""

    def __init__(self) -> None:
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
        self.communicator = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self.communicator.rank, self.communicator.size
        local = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        self.num_local_ranks = local.size
        """Ranks on this machine, whose memory they share out."""
        self.hosts = self._hosts()
        self._groups: list[MpiGroup] = []
        """What is still under way to and from them must stay in memory."""
        self.owed: list[Callable[[float], bool]] = []
        """One for each rank that still owed an answer when its group was closed: waits for it, and says if it came."""

    def _hosts(self) -> list[str]:
        own = np.zeros(_HOST_BYTES, np.uint8)
        name = socket.gethostname().encode()[:_HOST_BYTES]
        own[: len(name)] = np.frombuffer(name, np.uint8)
        all_names = np.zeros((self.size, _HOST_BYTES), np.uint8)
        self.communicator.Allgather(own, all_names)
        return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in all_names]

    def who(self, name: str, rank: int) -> str:
        """What errors call a member of a group."""
        return f"{name} (rank {rank} on {self.hosts[rank]})"

    def make_group(self, names: list[str], timeout_seconds: float) -> MpiGroup:
        """This rank's view of a new group of all ranks; every rank makes the same ones in the same order."""
        first_tag = _FIRST_GROUP_TAG + TAGS_OF_A_GROUP * len(self._groups)
        called = [self.who(name, rank) for rank, name in enumerate(names)]
        self._groups.append(MpiGroup(self.communicator, called, first_tag, timeout_seconds))
        return self._groups[-1]

    def is_settled(self, timeout_seconds: float) -> bool:
        """Whether every rank has answered all it was asked when so much time has passed, and can be asked again."""
        deadline = time.monotonic() + timeout_seconds
        self.owed = [wait for wait in self.owed if not wait(max(0.0, deadline - time.monotonic()))]
        return not self.owed

    def abort(self, code: int) -> None:
        """Ends all ranks at once; what this one has to say was said."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_LAST_WORDS_SECONDS)
        MPI.COMM_WORLD.Abort(code)
        os._exit(code)

    def finalize(self, code: int) -> None:
        """Leaves the job; every rank comes to it. Messages that a broken group left under way may keep MPI from it."""
        watch = threading.Timer(_FINALIZE_SECONDS, os._exit, (code or 1,))
        watch.daemon = True
        watch.start()
        MPI.Finalize()
        watch.cancel()


_joined: list[MpiJob] = []


def current() -> MpiJob | None:
    """The job that this process has joined."""
    return _joined[0] if _joined else None


def join() -> MpiJob:
    """Joins the job that the launcher has started this process for; all ranks do, or the job ends after minutes."""
    with _ending_the_job_after(_JOIN_SECONDS):
        _joined.append(MpiJob())
    set_thread_budget(num_own_threads=num_cores())
    return _joined[0]


@contextmanager
def _ending_the_job_after(seconds: float) -> Iterator[None]:
    """Ends this process, saying where it stood, unless what is done inside is done in time; the launcher ends the rest.

    The library joins ranks with the interpreter's lock in its hand, so that no thread of Python could do it.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_job(program: Callable[[], int | None]) -> int:
    """Runs `program` on rank 0; the other ranks work for its fleets, and give 0.

    What it returns is the exit code there, None is 0; what it raises is printed, and is exit code 1.
    """
    from qfleet.backends.mpi_server import end_servers, serve

    job = join()
    if job.rank:
        return serve(job)
    code = _code_of(program)
    if not end_servers(job):
        job.abort(code or 1)
    job.finalize(code)
    if code:
        time.sleep(
            _LAST_WORDS_SECONDS
        )  # mpiexec has words of its own for ranks that are still there when one fails
    return code


def _code_of(program: Callable[[], Any]) -> int:
    try:
        return int(program() or 0)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
