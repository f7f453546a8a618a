"""Services as Ray actors, on as many machines as the cluster has."""

import time
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qfleet.backends.network_mesh import Address, new_token
from qfleet.backends.ray_cluster import RayCluster, import_ray
from qfleet.backends.ray_handle import RayHandle
from qfleet.backends.ray_service import RayMembership, RayService, versions
from qfleet.backends.replies import load_reply
from qfleet.backends.service_pickling import Buffers, dump_maker
from qfleet.backends.shared_memory import SharedArrays
from qfleet.backends.user_modules import sent_by_value
from qfleet.errors import FleetError
from qfleet.fleet import Group

_START_SECONDS = 120.0
_LOOPBACK = "127.0.0.1"


@final
class RayFleet:
    """Starts services as actors, one CPU each, spread over the nodes; an actor that dies is not started again."""

    shares_memory = False
    recovery = None

    def __init__(self, address: str = "", interface: str = "", num_workers: int = 1) -> None:
        """`address` and `num_workers` as of RayCluster; `interface` is the network that groups speak on."""
        self._ray, self._interface = import_ray(), interface
        self._cluster = RayCluster(address, num_workers)
        self._handles: list[RayHandle] = []

    def start(self, name: str, make_service: Callable[[], Any]) -> RayHandle:
        """Makes a service in a new actor; FleetError if the maker cannot be pickled."""
        return self._start([name], [make_service], None)[0]

    def start_group(
        self, names: Sequence[str], make_services: Sequence[Callable[[Group], Any]], timeout_seconds: float
    ) -> list[RayHandle]:
        """Makes services in new actors, as one group; FleetError if a maker cannot be pickled."""
        return self._start(names, make_services, timeout_seconds)

    def shared_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Raises FleetError: nodes share no memory."""
        raise FleetError(
            "the backend ray has no memory that all workers share; the backends threads and processes have"
        )

    def close(self) -> None:
        """Ends all actors, and the cluster if it was made for them."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.end()
        self._cluster.close()

    def _start(
        self, names: Sequence[str], makers: Sequence[Callable[..., Any]], timeout_seconds: float | None
    ) -> list[RayHandle]:
        dumped = self._dumped(names, makers)
        self._cluster.require_cpus(len(names))
        handles = [RayHandle(self._ray, name, self._actor(name)) for name in names]
        self._handles += handles
        hosts = self._place(handles)
        if timeout_seconds is not None:
            self._join(handles, hosts, timeout_seconds)
        for handle, (maker, buffers) in zip(handles, dumped, strict=True):
            handle.ask("make", maker, *buffers)
        return handles

    def _dumped(
        self, names: Sequence[str], makers: Sequence[Callable[..., Any]]
    ) -> list[tuple[bytes, list[Any]]]:
        """Each maker's bytes, and references to the large arrays that it holds, which are sent once a node."""
        buffers = Buffers()
        with sent_by_value():
            dumped = [dump_maker(*pair, SharedArrays(), buffers) for pair in zip(names, makers, strict=True)]
        references = [self._ray.put(np.frombuffer(view, np.uint8)) for view in buffers.views]
        return [(maker, [references[index] for index in used]) for maker, used in dumped]

    def _actor(self, name: str) -> Any:
        kept = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        return self._ray.remote(**kept)(RayService).remote(name)

    def _place(self, handles: Sequence[RayHandle]) -> list[str]:
        """The address of each actor's node; FleetError where one does not start, or is of other versions."""
        asked = [(handle, handle.ask("place")) for handle in handles]
        deadline, hosts = time.monotonic() + _START_SECONDS, []
        for handle, reference in asked:
            left = max(0.0, deadline - time.monotonic())
            process_id, host, machine, found = handle.wait("its start", reference, left)
            handle.who = f"{handle.name} (process {process_id} on {machine})"
            refuse_other_versions(handle.who, found, versions())
            hosts.append(_LOOPBACK if self._cluster.is_local else host)
        return hosts

    def _join(self, handles: Sequence[RayHandle], hosts: Sequence[str], timeout_seconds: float) -> None:
        """Connects the actors with one another."""
        places = zip(handles, hosts, strict=True)
        asked = [(handle, handle.ask("listen", host, self._interface)) for handle, host in places]
        addresses: list[Address] = [_told(handle, "its start", reference) for handle, reference in asked]
        names, token = [handle.who for handle in handles], new_token()
        members = [
            RayMembership(rank, names, addresses, token, timeout_seconds) for rank in range(len(handles))
        ]
        joined = [
            (handle, handle.ask("join", member, _START_SECONDS / 2))
            for handle, member in zip(handles, members, strict=True)
        ]
        for handle, reference in joined:
            _told(handle, "connecting with its group", reference)


def _told(handle: RayHandle, doing: str, reference: Any) -> Any:
    return load_reply(handle.wait(doing, reference, _START_SECONDS), handle.who)


def refuse_other_versions(who: str, found: dict[str, str], ours: dict[str, str]) -> None:
    """FleetError naming the first package of which a worker has another version than this process."""
    for package, version in ours.items():
        if found.get(package) != version:
            raise FleetError(
                f"{who} has {package} {found.get(package)}, and this process {version}; the same versions of "
                f"{', '.join(ours)} on every node work"
            )
