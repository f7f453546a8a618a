"""What a Ray cluster does about workers and nodes that are gone: keepers have what others need to go on."""

import itertools
import time
from collections.abc import Sequence
from typing import Any, final

from qfleet.backends.kept_values import Kept
from qfleet.backends.network_mesh import Address
from qfleet.backends.ray_future import KeptFuture
from qfleet.backends.ray_handle import RayHandle
from qfleet.backends.ray_keeper import FORGET, KILL
from qfleet.backends.ray_nodes import Node, Nodes
from qfleet.fleet import Handle

_END_SECONDS = 1.0
_NEW_NODE_SECONDS = 3.0


@final
class RayRecovery:
    """Two keepers have each value: one on the worker's node and one on the next, if there is another."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._keys = itertools.count()

    def keep(self, handle: Handle, method: str, *arguments: Any) -> KeptFuture:
        """See `qfleet.fleet.Recovery.keep`."""
        assert isinstance(handle, RayHandle)
        return handle.keep(method, arguments, next(self._keys), self._places(handle.node), self._nodes.token)

    def forget(self, kept: Sequence[Kept]) -> None:
        """See `qfleet.fleet.Recovery.forget`."""
        for one in kept:
            for node in self._nodes.living():
                if node.place in one.places:
                    node.ask(FORGET, one.key)

    def end(self, handles: Sequence[Handle]) -> None:
        """See `qfleet.fleet.Recovery.end`; then it is known, too, which nodes live."""
        end_actors([handle for handle in handles if isinstance(handle, RayHandle)])
        self._nodes.hear_all()

    def room(self) -> int:
        """See `qfleet.fleet.Recovery.room`; new nodes are given a moment to answer."""
        self._nodes.settle(_NEW_NODE_SECONDS)
        return sum(node.num_cpus for node in self._nodes.living())

    def _places(self, own: Node) -> list[Address]:
        living = self._nodes.living()
        start = living.index(own) if own in living else 0
        nodes = [*living[start:], *living[:start]][:2]
        return [node.place for node in nodes if node.place is not None]


def end_actors(handles: Sequence[RayHandle]) -> None:
    """Ends them by SIGKILL, as Ray's own way needs their help; returns once they are gone, or after a second."""
    running = [handle for handle in handles if not handle.is_ended]
    for handle in running:
        if handle.process_id is not None:
            handle.node.ask(KILL, handle.process_id)
        handle.end()
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline and not all(_is_gone(handle) for handle in running):
        time.sleep(0.01)


def _is_gone(handle: RayHandle) -> bool:
    return handle.process_id is None or handle.node.is_gone(handle.process_id)
