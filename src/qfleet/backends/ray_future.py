"""The answer to a call of a Ray actor, as two of Ray's objects: whether it has failed, and what it came to.

The driver waits for the first, which is small; what it is told may be in there. The second stays where it was made
until somebody asks for it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future as PythonFuture
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

from qfleet.backends.kept_values import Kept, KeptAt
from qfleet.backends.ray_service import own_value
from qfleet.backends.replies import load_reply
from qfleet.errors import FleetError

if TYPE_CHECKING:
    from qfleet.backends.ray_handle import RayHandle

_FETCH_SECONDS = 1.0
"""What is there may take so long to come, even if the deadline is over."""


@final
class RayFuture:
    """The answer to a call of an actor."""

    def __init__(
        self,
        handle: "RayHandle",
        doing: str,
        references: tuple[Any, Any],
        given: "tuple[RayFuture, ...]" = (),
    ) -> None:
        """`references`: to an outcome's head, and to its value; `given` are the futures among the call's arguments."""
        self.references, self._handle, self._doing, self._given = references, handle, doing, given
        self._failure: PythonFuture[Any] = references[0].future()
        self._failure.add_done_callback(self._forget_given)

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value, or what it raised; FleetError if neither is there in time."""
        deadline = time.monotonic() + timeout_seconds
        failure, said = self._handle.wait(self._doing, self._failure, timeout_seconds, self.check)
        if failure is not None:
            who, reply = failure
            return load_reply(reply, who)
        if said is not None:
            return own_value(said)
        left = max(_FETCH_SECONDS, deadline - time.monotonic())
        return own_value(self._handle.wait(self._doing, self.references[1].future(), left))

    def when_done(self, callback: Callable[[], None]) -> None:
        """See `qfleet.fleet.Future.when_done`."""
        over: PythonFuture[None] = PythonFuture()
        over.add_done_callback(lambda _: callback())
        self._handle.losses.watch(self, over)
        self._failure.add_done_callback(lambda _: finish(over))

    def check(self) -> None:
        """FleetError if it is known that no answer will come, of this call or of one whose answer it waits for."""
        if self._failure.done() and self._failure.exception() is None:
            return
        for future in self._given:
            future.check()
        if self._failure.done():
            raise FleetError(self._handle.how_it_died(self._doing, self._failure.exception()))
        self._handle.refuse_lost(self._doing)

    def _forget_given(self, failure: PythonFuture[Any]) -> None:
        """They would hold the futures that were given to them, and so on."""
        if failure.exception() is None:
            self._given = ()


@final
class KeptFuture:
    """The answer to a call whose return value keepers have."""

    def __init__(self, future: RayFuture, token: bytes) -> None:
        self._future, self._token = future, token

    def result(self, timeout_seconds: float) -> Kept:
        """Stands for the return value; raises as RayFuture's does."""
        found: KeptAt = self._future.result(timeout_seconds)
        return Kept(found.key, found.places, self._token)

    def when_done(self, callback: Callable[[], None]) -> None:
        """See `qfleet.fleet.Future.when_done`."""
        self._future.when_done(callback)


def finish(over: PythonFuture[None]) -> None:
    """Whoever comes first."""
    with suppress(InvalidStateError):
        over.set_result(None)
