"""A service in a Ray actor, as the driver sees it."""

import time
from collections.abc import Sequence
from concurrent.futures import Future as PythonFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, final

import cloudpickle

from qfleet.backends.futures import one_line
from qfleet.backends.kept_values import Kept, KeptAt
from qfleet.backends.network_mesh import Address
from qfleet.backends.ray_nodes import Node, cause_of
from qfleet.backends.replies import load_reply
from qfleet.errors import FleetError

_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 0.4
"""Ray, or a member of the group, may say better what has happened."""


@final
class RayFuture:
    """The answer to a call of an actor."""

    def __init__(self, handle: "RayHandle", method: str, answer: PythonFuture[Any]) -> None:
        self._handle, self._method, self._answer = handle, method, answer

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value, or what it raised; FleetError if neither is there in time."""
        return load_reply(self._handle.wait(self._method, self._answer, timeout_seconds), self._handle.who)


@final
class KeptFuture:
    """The answer to a call whose return value keepers have."""

    def __init__(self, future: RayFuture, token: bytes) -> None:
        self._future, self._token = future, token

    def result(self, timeout_seconds: float) -> Kept:
        """Stands for the return value; raises as RayFuture's does."""
        found: KeptAt = self._future.result(timeout_seconds)
        return Kept(found.key, found.places, self._token)


@final
class RayHandle:
    """An actor. Ray runs its calls in order, one at a time; the keeper of its node says how its process is."""

    def __init__(self, ray: Any, name: str, actor: Any, node: Node) -> None:
        self._ray, self._actor, self.name, self.node = ray, actor, name, node
        self.who = name
        """With process and machine, once they are known."""
        self.process_id: int | None = None
        self.group: Sequence[RayHandle] = ()
        """All that were started together: if one is lost, calls of the others may never end."""
        self.is_ended = False
        self._lost_since: float | None = None

    def call(self, method: str, *arguments: Any) -> RayFuture:
        """Queues a method call; FleetError if its arguments cannot be sent."""
        return RayFuture(self, method, self.ask("call", method, self._dumped(method, arguments)))

    def keep(
        self, method: str, arguments: Sequence[Any], key: int, places: Sequence[Address], token: bytes
    ) -> KeptFuture:
        """The same; the return value goes to the keepers."""
        answer = self.ask("keep", method, self._dumped(method, arguments), key, places, token)
        return KeptFuture(RayFuture(self, method, answer), token)

    def ask(self, method: str, *arguments: Any) -> PythonFuture[Any]:
        """Queues a method of RayService itself."""
        if self.is_ended:
            raise FleetError(self._ended())
        return getattr(self._actor, method).remote(*arguments).future()

    def wait(self, doing: str, answer: PythonFuture[Any], timeout_seconds: float) -> Any:
        """What RayService gives; FleetError if the actor or one of its group is lost, or it is not done in time."""
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ended:
            try:
                return answer.result(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            except FutureTimeoutError:
                self._refuse_lost(doing)
            except self._ray.exceptions.RayError as error:
                if not self.is_ended:
                    raise FleetError(f"{self._died(doing)}: {cause_of(error)}") from error
            if time.monotonic() >= deadline:
                raise FleetError(f"{self.who} has not finished {doing} within {timeout_seconds:g} s")
        raise FleetError(self._ended())

    def trouble(self) -> str | None:
        """What has become of its process or its node; None if they are well."""
        return self.node.loss if self.process_id is None else self.node.trouble(self.process_id)

    def is_lost(self) -> bool:
        """Whether it has been in trouble for a moment."""
        if self.is_ended or self.trouble() is None:
            return False
        self._lost_since = self._lost_since or time.monotonic()
        return time.monotonic() - self._lost_since >= _GRACE_SECONDS

    def end(self) -> None:
        """Ends the actor, and with it every call."""
        self.is_ended = True
        self._ray.kill(self._actor)

    def _refuse_lost(self, doing: str) -> None:
        """FleetError a moment after this actor, or another of its group, was found to be lost."""
        for one in (self, *self.group):
            if one.is_lost():
                said = f"was lost before it had finished {doing}" if one is self else "is gone"
                raise FleetError(f"{one.who} {said}: {one.trouble()}")

    def _died(self, doing: str) -> str:
        return f"{self.who} died before it had finished {doing}"

    def _ended(self) -> str:
        return f"{self.who} has been ended"

    def _dumped(self, method: str, arguments: Sequence[Any]) -> bytes:
        try:
            return cloudpickle.dumps(tuple(arguments), protocol=5)
        except Exception as error:
            raise FleetError(
                f"the arguments of {method} cannot be sent to {self.name} ({one_line(error)})"
            ) from error
