"""What one process of the engine `processes` does: step its slice of the environments on request.

A request is one byte (the side to write to; with a seed, a reset), a reply one byte or an error's text.
The process is started with nothing but descriptors, and so needs nothing of the parent's main module:
scripts without a main guard, notebooks and standard input work.
"""

import faulthandler
import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cloudpickle
import numpy as np

from qfleet.environments.checks import environment_seeds
from qfleet.environments.loop import EnvironmentLoop, StepArrays
from qfleet.environments.shared_memory import map_arrays
from qfleet.environments.single import SingleFactory
from qfleet.environments.vector import ObservationLayout

DONE, DONE_WITH_MASKS, FAILED, QUIT = b"d", b"m", b"f", b"q"
COMMAND = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from qfleet.environments.worker import main
main(*map(int, sys.argv[2:]))
"""
"""What the interpreter is started with; its arguments are the parent's module search path and `main`'s."""
_PARENT_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerSlice:
    """Which environments a worker steps, and how the shared arrays of all of them lie."""

    first: int
    end: int
    num_envs: int
    num_actions: int
    layout: ObservationLayout
    parent: int
    """The parent's process id."""

    def fields(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """The actions, then two sides of step arrays."""
        sides = StepArrays.fields(self.num_envs, self.num_actions, self.layout)
        return [((self.num_envs,), np.dtype(np.int64)), *sides, *sides]


def main(pipe: int, memory: int, stacks: int) -> None:
    """The worker's whole life; descriptors of the pipe, the shared memory and the file for stacks.

    The first message is a cloudpickled (SingleFactory, WorkerSlice).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = Connection(pipe)
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    try:
        factory, part = cloudpickle.loads(requests.recv_bytes())
        threading.Thread(target=_end_with_parent, args=(part.parent,), daemon=True).start()
        _serve(factory, part, requests, memory)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone or has closed us
    except BaseException as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        requests.send_bytes(FAILED + f"{line}\n{traceback.format_exc()}".encode())


def _serve(factory: SingleFactory, part: WorkerSlice, requests: Connection, memory: int) -> None:
    arrays = map_arrays(memory, part.fields())
    os.close(memory)
    half = (len(arrays) - 1) // 2
    sides = tuple(
        StepArrays(*side).rows(part.first, part.end) for side in (arrays[1 : 1 + half], arrays[1 + half :])
    )
    actions = arrays[0][part.first : part.end]
    singles = [factory.make() for _ in range(part.first, part.end)]
    loop = EnvironmentLoop(singles, (sides[0], sides[1]))
    requests.send_bytes(DONE)
    while (request := requests.recv_bytes()) != QUIT:
        side, seed = request[0], request[1:]
        if seed:
            loop.reset(environment_seeds(int(seed), part.num_envs)[part.first : part.end], side)
        else:
            loop.step(actions, side)
        requests.send_bytes(DONE_WITH_MASKS if loop.masks_on else DONE)
    for single in singles:
        single.env.close()


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent, even while an environment's step is taking for ever."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
