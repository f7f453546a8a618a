"""A replay of a world's transitions, which several agents write to and draw from alike."""

from typing import Any, final

import numpy as np

from qfleet.tabular.transitions import Transitions
from qfleet.topologies.asynchronous import SharedReplay
from qfleet.topologies.replay_service import Learned


@final
class TransitionReplay(SharedReplay):
    """The newest `capacity` transitions, each as likely to be drawn as any other."""

    def __init__(self, capacity: int, seed: int, incarnation: int) -> None:
        self._stored = Transitions.empty(capacity)
        self._seed = (seed, incarnation)
        self._num_appended = self._num_drawn = 0

    def start(self) -> None:
        """Its memory is taken already."""

    def answer(self) -> None:
        """It is there."""

    def __len__(self) -> int:
        return min(self._num_appended, len(self._stored.state))

    def append(self, writer: int, block: Transitions) -> None:
        """Stores what an agent has made, in the place of the oldest."""
        number, capacity = len(block.state), len(self._stored.state)
        rows = (self._num_appended + np.arange(number)[-capacity:]) % capacity
        for array, new in zip(self._stored, block, strict=True):
            array[rows] = new[-capacity:]
        self._num_appended += number

    def restart_writer(self, writer: int, first_frame: int) -> None:
        """Nothing: every transition is whole by itself."""

    def sample(self, num_batches: int, batch_size: int) -> Transitions | None:
        """(num_batches * batch_size,), with repetitions; None if none are asked for, or there is nothing yet."""
        if not num_batches or not len(self):
            return None
        generator = np.random.default_rng([*self._seed, self._num_drawn])
        self._num_drawn += 1
        return self._stored.of(generator.integers(len(self), size=num_batches * batch_size))

    def prioritize(self, learned: Learned) -> None:
        """Nothing: all are drawn alike."""

    def save_state(self) -> dict[str, Any]:
        """All of it."""
        counts = {"appended": self._num_appended, "drawn": self._num_drawn}
        return {"stored": self._stored.of(np.arange(len(self)))._asdict()} | counts

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse; what has no room any more is left out."""
        self._num_appended, self._num_drawn = state["appended"], state["drawn"]
        for name, array in self._stored._asdict().items():
            array[: len(self)] = state["stored"][name][: len(self)]

    def close(self) -> None:
        """There is nothing to free."""
