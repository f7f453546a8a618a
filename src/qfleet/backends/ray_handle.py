"""A service in a Ray actor, as the driver sees it."""

from typing import Any, final

import cloudpickle

from qfleet.backends.futures import one_line
from qfleet.backends.replies import load_reply
from qfleet.backends.user_modules import sent_by_value
from qfleet.errors import FleetError


@final
class RayFuture:
    """The answer to a call of an actor."""

    def __init__(self, handle: "RayHandle", method: str, reference: Any) -> None:
        self._handle, self._method, self._reference = handle, method, reference

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value, or what it raised; FleetError if neither is there in time."""
        return load_reply(self._handle.wait(self._method, self._reference, timeout_seconds), self._handle.who)


@final
class RayHandle:
    """An actor. Ray runs its calls in order, one at a time, and says when it is dead."""

    def __init__(self, ray: Any, name: str, actor: Any) -> None:
        self._ray, self._actor, self.name = ray, actor, name
        self.who = name
        """With process and machine, once they are known."""
        self._is_closed = False

    def call(self, method: str, *arguments: Any) -> RayFuture:
        """Queues a method call; FleetError if its arguments cannot be sent."""
        if self._is_closed:
            raise FleetError(self._closed())
        try:
            with sent_by_value():
                data = cloudpickle.dumps(arguments, protocol=5)
        except Exception as error:
            raise FleetError(
                f"the arguments of {method} cannot be sent to {self.name} ({one_line(error)})"
            ) from error
        return RayFuture(self, method, self._actor.call.remote(method, data))

    def ask(self, method: str, *arguments: Any) -> Any:
        """Queues a method of RayService itself; a reference to what it gives."""
        return getattr(self._actor, method).remote(*arguments)

    def wait(self, doing: str, reference: Any, timeout_seconds: float) -> Any:
        """What the reference refers to; FleetError if the actor is dead, or not done in time."""
        if self._is_closed:
            raise FleetError(self._closed())
        try:
            return self._ray.get(reference, timeout=timeout_seconds)
        except self._ray.exceptions.GetTimeoutError:
            raise FleetError(f"{self.who} has not finished {doing} within {timeout_seconds:g} s") from None
        except self._ray.exceptions.RayError as error:
            if self._is_closed:
                raise FleetError(self._closed()) from None
            raise FleetError(f"{self.who} died before it had finished {doing}: {_cause(error)}") from error

    def end(self) -> None:
        """Ends the actor, and with it every call."""
        self._is_closed = True
        self._ray.kill(self._actor)

    def _closed(self) -> str:
        return f"the fleet of {self.who} has been closed"


def _cause(error: BaseException) -> str:
    """What Ray says of it, in one line and without its advice."""
    text = " ".join(str(error).split())
    _, found, detail = text.partition("Worker exit detail: ")
    if found:
        return detail.partition(" Some common causes")[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (raised or lines or [type(error).__name__])[-1 if raised else 0]
