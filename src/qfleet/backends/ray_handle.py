"""A service in a Ray actor, as the driver sees it."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as PythonFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, final

import cloudpickle

from qfleet.backends.futures import one_line
from qfleet.backends.network_mesh import Address
from qfleet.backends.ray_future import KeptFuture, RayFuture
from qfleet.backends.ray_losses import Losses
from qfleet.backends.ray_nodes import Node, cause_of
from qfleet.backends.ray_service import Parts, dump_parts
from qfleet.errors import FleetError

_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 0.4
"""Ray, or a member of the group, may say better what has happened."""


@final
class RayHandle:
    """An actor. Ray runs its calls in order, one at a time; the keeper of its node says how its process is."""

    def __init__(self, ray: Any, name: str, actor: Any, node: Node, losses: Losses) -> None:
        self._ray, self._actor, self.name, self.node, self.losses = ray, actor, name, node, losses
        self.who = name
        """With process and machine, once they are known."""
        self.process_id: int | None = None
        self.group: Sequence[RayHandle] = ()
        """All that were started together: if one is lost, calls of the others may never end."""
        self.is_ended = False
        self._lost_since: float | None = None

    def call(self, method: str, *arguments: Any) -> RayFuture:
        """Queues a method call; FleetError if its arguments cannot be sent."""
        places = tuple(place for place, one in enumerate(arguments) if isinstance(one, RayFuture))
        given = tuple(one for one in arguments if isinstance(one, RayFuture))
        own = self._dumped(method, [one for one in arguments if not isinstance(one, RayFuture)])
        # Ray replaces references by what they stand for, where they are arguments themselves.
        references = [reference for future in given for reference in future.references]
        return RayFuture(self, method, self._send("call", method, own, places, *references), given)

    def keep(
        self, method: str, arguments: Sequence[Any], key: int, places: Sequence[Address], token: bytes
    ) -> KeptFuture:
        """The same; the return value goes to the keepers."""
        references = self._send("keep", method, self._dumped(method, arguments), key, places, token)
        return KeptFuture(RayFuture(self, method, references), token)

    def ask(self, method: str, *arguments: Any) -> PythonFuture[Any]:
        """Queues a method of RayService itself."""
        if self.is_ended:
            raise FleetError(self._ended())
        return getattr(self._actor, method).remote(*arguments).future()

    def wait(
        self,
        doing: str,
        answer: PythonFuture[Any],
        timeout_seconds: float,
        check: Callable[[], None] | None = None,
    ) -> Any:
        """What RayService gives; FleetError if the actor or one of its group is lost, or it is not done in time.

        `check` raises a FleetError that says better why there will be no answer.
        """
        deadline = time.monotonic() + timeout_seconds
        look = check or (lambda: self.refuse_lost(doing))
        while not self.is_ended:
            try:
                return answer.result(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            except FutureTimeoutError:
                look()
            except self._ray.exceptions.RayError as error:
                look()
                raise FleetError(self.how_it_died(doing, error)) from error
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

    def refuse_lost(self, doing: str) -> None:
        """FleetError if it has been ended, or a moment after it, or another of its group, was found to be lost."""
        if self.is_ended:
            raise FleetError(self._ended())
        for one in (self, *self.group):
            if one.is_lost():
                said = f"was lost before it had finished {doing}" if one is self else "is gone"
                raise FleetError(f"{one.who} {said}: {one.trouble()}")

    def how_it_died(self, doing: str, error: BaseException | None) -> str:
        """One line about a call that Ray has not finished."""
        if self.is_ended or error is None:
            return self._ended()
        is_dead = isinstance(error, self._ray.exceptions.RayActorError)
        said = "died before it had finished" if is_dead else "could not run"
        return f"{self.who} {said} {doing}: {cause_of(error)}"

    def _send(self, method: str, *arguments: Any) -> tuple[Any, Any]:
        """References to an outcome's head, and to its value."""
        if self.is_ended:
            raise FleetError(self._ended())
        head, value = getattr(self._actor, method).options(num_returns=2).remote(*arguments)
        return head, value

    def _ended(self) -> str:
        return f"{self.who} has been ended"

    def _dumped(self, method: str, arguments: Sequence[Any]) -> Parts:
        try:
            return dump_parts(
                lambda keep: cloudpickle.dumps(tuple(arguments), protocol=5, buffer_callback=keep)
            )
        except Exception as error:
            raise FleetError(
                f"the arguments of {method} cannot be sent to {self.name} ({one_line(error)})"
            ) from error
