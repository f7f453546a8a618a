"""Killing and stopping members of a run of services, and when that was noticed, and got over."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import qfleet
from qfleet.assembly import Problem
from qfleet.backends.process_handle import ProcessHandle
from qfleet.experiment import make_settings, new_folder
from qfleet.training import Training
from tests import clock

NOTICED_SECONDS = clock.seconds(2, 10)
BACK_SECONDS = clock.seconds(5, 25)
LEARNING_SECONDS = clock.seconds(10, 40)
_GIVEN_UP_SECONDS = 60.0
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


@dataclass
class Loss:
    """One member that got a signal; moments by the monotonic clock, infinite as long as they have not come."""

    member: str
    number: signal.Signals
    process_id: int
    sent_at: float
    noticed_at: float = math.inf
    """A line said who it was."""
    back_at: float = math.inf
    """Steps were made by the ones that went on."""
    learning_at: float = math.inf
    """So were updates."""
    counts: tuple[int, int] | None = None
    """Steps and updates at the first turn after it was noticed."""

    def see(self, status: qfleet.Status, now: float) -> None:
        """A turn of the run."""
        if self.noticed_at == math.inf:
            return
        self.counts = self.counts or (status.steps, status.updates)
        if status.steps > self.counts[0]:
            self.back_at = min(self.back_at, now)
        if status.updates > self.counts[1]:
            self.learning_at = min(self.learning_at, now)

    @property
    def is_over(self) -> bool:
        return max(self.back_at, self.learning_at) < math.inf

    def seconds(self) -> tuple[float, float, float]:
        """To the notice; from there to new steps, and to new updates."""
        noticed = self.noticed_at
        return noticed - self.sent_at, self.back_at - noticed, self.learning_at - noticed


class Trouble:
    """Sends signals to members, and sees what comes of them."""

    def __init__(self) -> None:
        self.training: Any = None
        self.losses: list[Loss] = []
        self.said: list[str] = []
        """Every line the run had to say."""
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def members(self) -> dict[str, int]:
        """Process ids, by name."""
        crews = self.training.trainee.topology._crews
        return {
            f"{crew.role} {number}": process_id_of(handle)
            for crew in crews
            for number, handle in enumerate(crew._handles)
        }

    def hear(self, line: str) -> None:
        """What the run reports."""
        self.said.append(line)
        for loss in self.losses:
            if line.startswith(f"{loss.member} (process {loss.process_id}"):
                loss.noticed_at = min(loss.noticed_at, time.monotonic())

    def see(self, status: qfleet.Status) -> None:
        """A turn of the run."""
        now = time.monotonic()
        for loss in list(self.losses):
            loss.see(status, now)

    def send(self, member: str, number: signal.Signals) -> Loss:
        """At once."""
        process_id = self.members()[member]
        self.losses.append(Loss(member, number, process_id, time.monotonic()))
        os.kill(process_id, number)
        return self.losses[-1]

    def begin(self, plan: Sequence[tuple[str, signal.Signals]], seed: int) -> None:
        """One after the other, each a random moment after the last was got over."""
        generator = np.random.default_rng(seed)
        pauses = generator.uniform(0.2, 2.0, len(plan)).tolist()
        order = [plan[index] for index in generator.permutation(len(plan))]
        self._thread = threading.Thread(target=self._run, args=(order, pauses), daemon=True)
        self._thread.start()

    def _run(self, plan: Sequence[tuple[str, signal.Signals]], pauses: Sequence[float]) -> None:
        for (member, number), pause in zip(plan, pauses, strict=True):
            if self._ended.wait(pause):
                return
            loss, deadline = self.send(member, number), time.monotonic() + _GIVEN_UP_SECONDS
            while not loss.is_over and not self._ended.wait(0.05) and time.monotonic() < deadline:
                pass

    def begin_together(self, members: Sequence[str], delay_seconds: float) -> None:
        """The first is killed, and so much later the second."""

        def kill_both() -> None:
            for member in members:
                self.send(member, signal.SIGKILL)
                time.sleep(delay_seconds)

        self._thread = threading.Thread(target=kill_both, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The run has come to its end, maybe before what was planned: nobody is sent anything any more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_GIVEN_UP_SECONDS)

    @property
    def has_begun(self) -> bool:
        return self._thread is not None

    @property
    def is_over(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def check(self) -> None:
        """Every loss was noticed, and got over, in time; the figures are printed."""
        for loss in self.losses:
            noticed, back, learning = loss.seconds()
            name = loss.number.name
            sys.stdout.write(
                f"{loss.member} {name}: noticed {noticed:.2f} s, back {back:.2f} s, learning {learning:.2f} s\n"
            )
        for loss in self.losses:
            noticed, back, learning = loss.seconds()
            assert 0 < noticed < NOTICED_SECONDS, loss
            assert 0 < back < BACK_SECONDS, loss
            assert 0 < learning < LEARNING_SECONDS, loss


def process_id_of(handle: Any) -> int:
    return handle._process.pid if isinstance(handle, ProcessHandle) else handle.process_id


@contextmanager
def troubled(environment: Any, out: Path, settings: dict[str, Any]) -> Iterator[tuple[Training, Trouble]]:
    """A run to be iterated over, and its trouble, which hears what it reports."""
    trouble, problem = Trouble(), Problem(make_settings(environment, None, settings), environment)
    with (
        new_folder(problem, out) as folder,
        Training(problem, folder, report=trouble.hear) as training,
    ):
        trouble.training = training
        try:
            yield training, trouble
        finally:
            trouble.end()
