"""A board of a Ray cluster: each version is put into the object store once, and nodes fetch it to read it.

An actor knows the newest version. Each process that reads has one question to it under way, which is answered when
there is something newer: reading costs a look at whether the answer has come. If it has, the newest is asked for, as
there may have been more since.
"""

import asyncio
import threading
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.boards import as_bytes
from qfleet.backends.futures import one_line
from qfleet.errors import FleetError

_SECONDS = 10.0


class Written(NamedTuple):
    """What was written last."""

    num_writes: int
    """How many writes there were."""
    version: int
    reference: list[Any]
    """To the array, in a list, as Ray would replace it by its object."""


NOTHING = Written(0, 0, [])


@final
class BoardKeeper:
    """The actor."""

    def __init__(self) -> None:
        self._newest, self._news = NOTHING, asyncio.Event()

    async def publish(self, version: int, reference: list[Any]) -> None:
        """Takes a reference; the one before is freed."""
        self._newest = Written(self._newest.num_writes + 1, version, reference)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def after(self, num_writes: int) -> Written:
        """The newest, once there have been more writes than so many."""
        while self._newest.num_writes <= num_writes:
            await self._news.wait()
        return self._newest


@final
class RayBoard:
    """A board, in the driver and in every service."""

    def __init__(self, keeper: Any, num_bytes: int) -> None:
        self._keeper, self._num_bytes = keeper, num_bytes
        self._lock = threading.Lock()
        self._publishing: Any = None
        """The answer to the last write."""
        self._newest = NOTHING
        self._asked: Any = None
        """The answer to the question under way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RayBoard, (self._keeper, self._num_bytes)

    def write(self, version: int, array: NDArray[Any]) -> None:
        """See `qfleet.fleet.Board.write`; FleetError too where the object store did not take it, or the one before."""
        import ray
        from ray.exceptions import RayError

        content = as_bytes(array, self._num_bytes)
        try:
            if self._publishing is not None:
                ray.get(self._publishing, timeout=_SECONDS)
            self._publishing = self._keeper.publish.remote(version, [ray.put(content)])
        except RayError as error:
            raise FleetError(f"version {version} cannot be put on a board ({one_line(error)})") from error

    def read(self, newer_than: int) -> tuple[int, NDArray[np.uint8]] | None:
        """See `qfleet.fleet.Board.read`; FleetError if the object store does not give it.

        Ray forgets what a service has put once that is gone: until something else is written, there is nothing.
        """
        import ray
        from ray.exceptions import ObjectLostError, RayError

        try:
            with self._lock:
                self._take_news(ray)
                _, version, reference = self._newest
            if not reference or version <= newer_than:
                return None
            return version, ray.get(reference[0], timeout=_SECONDS)
        except ObjectLostError:
            return None
        except RayError as error:
            raise FleetError(f"a board cannot be read ({one_line(error)})") from error

    def _take_news(self, ray: Any) -> None:
        """If there are any. What the answer says may be old: it has waited until somebody reads."""
        if self._asked is None or ray.wait([self._asked], timeout=0)[0]:
            self._newest = Written(*ray.get(self._keeper.after.remote(-1), timeout=_SECONDS))
            self._asked = self._keeper.after.remote(self._newest.num_writes)
