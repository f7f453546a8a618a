"""Tells who waits for an answer that none will come: Ray notices lost nodes late, and stopped processes never."""

import threading
from concurrent.futures import Future as PythonFuture
from typing import TYPE_CHECKING, final

from qfleet.backends.ray_future import finish
from qfleet.errors import FleetError

if TYPE_CHECKING:
    from qfleet.backends.ray_future import RayFuture

_LOOK_SECONDS = 0.1


@final
class Losses:
    """A thread that looks at the services whose answers are waited for."""

    def __init__(self) -> None:
        self._watched: list[tuple[RayFuture, PythonFuture[None]]] = []
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="losses of services", daemon=True)
        self._thread.start()

    def watch(self, future: "RayFuture", over: PythonFuture[None]) -> None:
        """Ends `over` once it is known that the future's answer will not come."""
        with self._lock:
            self._watched.append((future, over))

    def close(self) -> None:
        """Ends whatever is still watched."""
        self._closing.set()
        self._thread.join(2.0)
        for _, over in self._watched:
            finish(over)

    def _look_often(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            with self._lock:
                self._watched = [pair for pair in self._watched if not pair[1].done()]
                watched = list(self._watched)
            for future, over in watched:
                try:
                    future.check()
                except FleetError:
                    finish(over)
