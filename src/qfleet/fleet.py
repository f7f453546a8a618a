"""The seam between topologies and backends for work by request: services, calls, futures.

A topology starts services (plain classes with plain methods) and calls them; a backend decides where they
live. Every wait has a deadline.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Future(Protocol):
    """The answer to a call, once it is there."""

    def result(self, timeout_seconds: float) -> Any:
        """The method's return value.

        Raises what the method raised; raises FleetError, naming the service, if it is not there in time.
        """
        ...


class Handle(Protocol):
    """A started service."""

    def call(self, method: str, *arguments: Any) -> Future:
        """Asks for a method to be run; calls of one handle run in order, one at a time."""
        ...


class Fleet(Protocol):
    """Where services are started."""

    def start(self, name: str, make_service: Callable[[], Any]) -> Handle:
        """Makes a service where it will live; `name` is what errors call it."""
        ...

    def close(self) -> None:
        """Ends all services; safe to call twice."""
        ...
