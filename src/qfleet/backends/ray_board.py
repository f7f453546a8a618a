"""A board of a Ray cluster: each version is put into the object store once, and nodes fetch it to read it."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.boards import as_bytes
from qfleet.backends.futures import one_line
from qfleet.errors import FleetError

_SECONDS = 10.0


@final
class BoardKeeper:
    """The actor that knows the newest version."""

    def __init__(self) -> None:
        self._newest: tuple[int, list[Any]] | None = None

    def publish(self, version: int, reference: list[Any]) -> None:
        """Takes a reference, in a list as Ray would replace it by its object; the one before is freed."""
        self._newest = version, reference

    def newest(self, newer_than: int) -> tuple[int, list[Any]] | None:
        """The newest version and its reference; None if there is none newer."""
        newest = self._newest
        return newest if newest is not None and newest[0] > newer_than else None


@final
class RayBoard:
    """A board, in the driver and in every service."""

    def __init__(self, keeper: Any, num_bytes: int) -> None:
        self._keeper, self._num_bytes = keeper, num_bytes

    def write(self, version: int, array: NDArray[Any]) -> None:
        """See `qfleet.fleet.Board.write`; FleetError too where the object store does not take it."""
        import ray
        from ray.exceptions import RayError

        content = as_bytes(array, self._num_bytes)
        try:
            ray.get(self._keeper.publish.remote(version, [ray.put(content)]), timeout=_SECONDS)
        except RayError as error:
            raise FleetError(f"version {version} cannot be put on a board ({one_line(error)})") from error

    def read(self, newer_than: int) -> tuple[int, NDArray[np.uint8]] | None:
        """See `qfleet.fleet.Board.read`; FleetError if the object store does not give it.

        Ray forgets what a service has put once that is gone: until something else is written, there is nothing.
        """
        import ray
        from ray.exceptions import ObjectLostError, RayError

        try:
            found = ray.get(self._keeper.newest.remote(newer_than), timeout=_SECONDS)
            return None if found is None else (found[0], ray.get(found[1][0], timeout=_SECONDS))
        except ObjectLostError:
            return None
        except RayError as error:
            raise FleetError(f"a board cannot be read ({one_line(error)})") from error
