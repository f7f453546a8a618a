"""The engine `processes`: worker processes that each step a slice of the environments.

Observations, rewards and flags lie in shared memory; a byte through a pipe wakes a worker, another says it
is done. Every wait has a deadline and sees a worker's death at once.
"""

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NoReturn

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from qfleet.environments.checks import StepChecker
from qfleet.environments.in_process import step_of
from qfleet.environments.loop import StepArrays
from qfleet.environments.shared_memory import map_arrays, nameless_file, new_memory
from qfleet.environments.single import SingleEnvironment, SingleFactory
from qfleet.environments.vector import Step, VectorEnvironment
from qfleet.environments.worker import COMMAND, DONE_WITH_MASKS, FAILED, QUIT, WorkerSlice
from qfleet.errors import QfleetError
from qfleet.launcher import without_launcher

_TIMEVAL = struct.Struct("ll")
_START_SECONDS = 120.0
_CLOSE_SECONDS = 2.0
_TRANSFER_SECONDS = 30
"""A worker that takes or gives nothing of a message for so long hangs; the first waits for it to import things."""


class ProcessEnvironment(VectorEnvironment):
    """Any Gymnasium environments, in processes."""

    engine = "processes"

    def __init__(
        self,
        factory: SingleFactory,
        probe: SingleEnvironment,
        num_envs: int,
        num_processes: int,
        step_timeout_seconds: float,
    ) -> None:
        """`probe` is one environment of the factory, looked at and not stepped."""
        self.num_envs, self.num_actions = num_envs, probe.num_actions
        self.layout, self.frame_stack = probe.encoder.layout, probe.frame_stack
        self._name, self._step_seconds = probe.name, step_timeout_seconds
        self._checker, self._all_stepped = StepChecker(probe.name, num_envs), np.ones(num_envs, np.bool_)
        self._workers: list[_Worker] = []
        self._side, self._num_steps, self._masks_on = 0, 0, False
        cuts = np.linspace(0, num_envs, min(num_processes or _num_cores(), num_envs) + 1).astype(int).tolist()
        parts = [
            WorkerSlice(first, end, num_envs, self.num_actions, self.layout, os.getpid())
            for first, end in itertools.pairwise(cuts)
        ]
        memory = new_memory(parts[0].fields())
        try:
            arrays = map_arrays(memory, parts[0].fields())
            self._actions, half = arrays[0], (len(arrays) - 1) // 2
            self._sides = StepArrays(*arrays[1 : 1 + half]), StepArrays(*arrays[1 + half :])
            for index, part in enumerate(parts):
                self._workers.append(_Worker(index, part, memory))
            for worker in self._workers:
                self._send(worker, _pickled(factory, worker.part))
            self._await_all(_START_SECONDS)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)

    def reset(self, seed: int) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """See `VectorEnvironment.reset`."""
        self._num_steps = 0
        arrays = self._request(str(seed).encode())
        masks = arrays.masks if self._masks_on else None
        self._checker.check_reset(arrays.observations, masks)
        return arrays.observations, masks

    def step(self, actions: NDArray[np.int64]) -> Step:
        """See `VectorEnvironment.step`; QfleetError if a worker died, failed or hangs."""
        self._actions[:] = actions
        self._num_steps += 1
        step = step_of(self._request(b""), self._all_stepped, masks_on=self._masks_on)
        self._checker.check(step)
        return step

    def _request(self, payload: bytes) -> StepArrays:
        if not self._workers:
            raise QfleetError(f"the environment processes of {self._name} are closed; make them anew")
        self._side ^= 1
        for worker in self._workers:
            self._send(worker, bytes([self._side]) + payload)
        self._await_all(self._step_seconds)
        return self._sides[self._side]

    def _send(self, worker: "_Worker", message: bytes) -> None:
        if not worker.send(message):
            self._fail(worker, f"did not take what it was sent within {_TRANSFER_SECONDS} s", worker.stack())

    def _await_all(self, timeout_seconds: float) -> None:
        """Waits for every worker's reply; after a failure everything is ended before it is reported."""
        deadline = time.monotonic() + timeout_seconds
        waiting = {worker.pipe: worker for worker in self._workers}
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                worker = next(iter(waiting.values()))
                self._fail(worker, f"did not answer within {timeout_seconds:g} s", worker.stack())
            for pipe in ready:
                assert isinstance(pipe, Connection)
                self._receive(waiting.pop(pipe))

    def _receive(self, worker: "_Worker") -> None:
        try:
            reply = worker.pipe.recv_bytes()
        except BlockingIOError:
            self._fail(worker, f"stopped in an answer for {_TRANSFER_SECONDS} s", worker.stack())
        except (EOFError, ConnectionResetError):
            self._fail(worker, worker.how_it_ended(), worker.stack())
        if reply[:1] == FAILED:
            line, _, text = reply[1:].decode().partition("\n")
            self._fail(worker, f"failed with {line}", text)
        self._masks_on = self._masks_on or reply == DONE_WITH_MASKS

    def _fail(self, worker: "_Worker", what: str, text: str) -> NoReturn:
        self.close()
        where = f"at step {self._num_steps}" if self._num_steps else "while it started or reset"
        error = QfleetError(
            f"{self._name}: environment process {worker.index} (environments {worker.part.first} to "
            f"{worker.part.end - 1}) {what} {where}"
        )
        if text:
            error.add_note(text)
        raise error

    def save_state(self) -> None:
        """The state stays in the workers; none is told."""
        return None

    def load_state(self, state: dict[str, NDArray]) -> None:
        """Never called, as `save_state` gives nothing."""
        raise QfleetError("the engine processes cannot put its environments back into a saved state")

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.ask_to_end()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for worker in workers:
            worker.end(max(0.0, deadline - time.monotonic()))


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, index: int, part: WorkerSlice, memory: int) -> None:
        self.index, self.part = index, part
        self._stacks = nameless_file()
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(_TRANSFER_SECONDS, 0))
        descriptors = (theirs.fileno(), memory, self._stacks)
        self.pipe = Connection(ours.detach())
        search_path = json.dumps([str(Path(path).absolute()) for path in sys.path])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, search_path, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=without_launcher(os.environ),
            )

    def send(self, message: bytes) -> bool:
        """Sends; False if it is not taken. That a worker is gone is found out, and named, by the wait that follows."""
        try:
            self.pipe.send_bytes(message)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass
        return True

    def ask_to_end(self) -> None:
        """It ends when it has done what it does, unless it reads nothing any more."""
        if select.select([], [self.pipe], [], 0)[1]:
            self.send(QUIT)

    def stack(self) -> str:
        """What the worker was doing, from Python's own fault handler; nothing if it cannot say."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
        size = os.fstat(self._stacks).st_size
        return os.pread(self._stacks, size, 0).decode(errors="replace")

    def how_it_ended(self) -> str:
        """For the error: by which signal or with which exit code."""
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def end(self, timeout_seconds: float) -> None:
        """Waits a moment for the process to end, then makes it."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a disk or a driver keeps it from ending
                self._process.wait(_CLOSE_SECONDS)
        self.pipe.close()
        os.close(self._stacks)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pickled(factory: SingleFactory, part: WorkerSlice) -> bytes:
    try:
        return cloudpickle.dumps((factory, part))
    except Exception as error:
        raise QfleetError(
            f"{factory.name} cannot be sent to other processes ({error}); the engine in-process runs it"
        ) from error
