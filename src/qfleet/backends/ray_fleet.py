"""Services as Ray actors, on as many machines as the cluster has."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future as PythonFuture
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qfleet.backends.network_mesh import Address, new_token
from qfleet.backends.ray_board import BoardKeeper, RayBoard
from qfleet.backends.ray_cluster import RayCluster, import_ray
from qfleet.backends.ray_handle import RayHandle
from qfleet.backends.ray_losses import Losses
from qfleet.backends.ray_nodes import Node, Nodes, cause_of, pinned_to, shares
from qfleet.backends.ray_recovery import RayRecovery, end_actors
from qfleet.backends.ray_service import RayMembership, RayService, versions
from qfleet.backends.replies import load_reply
from qfleet.backends.service_pickling import Buffers, dump_maker
from qfleet.backends.shared_memory import SharedArrays
from qfleet.backends.user_modules import own_sources
from qfleet.errors import FleetError
from qfleet.fleet import Group

_START_SECONDS = 120.0
_NEW_NODE_SECONDS = 3.0
_ROOM_SECONDS = 30.0
"""How long it is waited for a node where all are gone, or silent."""
_LOOPBACK = "127.0.0.1"


@final
class RayFleet:
    """Starts services as actors, one CPU each, spread over the nodes; an actor that dies is not started again."""

    shares_memory = False

    def __init__(self, address: str = "", interface: str = "", num_workers: int = 1) -> None:
        """`address` and `num_workers` as of RayCluster; `interface` is the network that workers speak on."""
        self._ray, self._interface = import_ray(), interface
        self._cluster = RayCluster(address, num_workers)
        self._host = _LOOPBACK if self._cluster.is_local else ""
        self._nodes = Nodes(self._ray, self._host, interface)
        self._handles: list[RayHandle] = []
        self._boards: list[Any] = []
        self._losses = Losses()
        self._has_started = False
        self.recovery = RayRecovery(self._nodes)
        """See `qfleet.fleet.Recovery`."""

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

    def board(self, num_bytes: int) -> RayBoard:
        """A board that lives on the driver's node, as the run does."""
        here = pinned_to(self._ray, self._ray.get_runtime_context().get_node_id())
        options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": here}
        keeper = self._ray.remote(**options)(BoardKeeper).remote()
        self._boards.append(keeper)
        try:
            self._ray.get(keeper.after.remote(-1), timeout=_START_SECONDS)
        except self._ray.exceptions.RayError as error:
            raise FleetError(f"a board cannot be started ({cause_of(error)})") from error
        return RayBoard(keeper, num_bytes)

    def close(self) -> None:
        """Ends all actors, and the cluster if it was made for them."""
        handles, self._handles = self._handles, []
        end_actors(handles)
        self._losses.close()
        boards, self._boards = self._boards, []
        for board in boards:
            self._ray.kill(board)
        self._nodes.close()
        self._cluster.close()

    def _start(
        self, names: Sequence[str], makers: Sequence[Callable[..., Any]], timeout_seconds: float | None
    ) -> list[RayHandle]:
        dumped = self._dumped(names, makers)
        handles = self._settled(names, timeout_seconds)
        for handle, (maker, buffers) in zip(handles, dumped, strict=True):
            handle.ask("make", maker, *buffers)
        return handles

    def _settled(self, names: Sequence[str], timeout_seconds: float | None) -> list[RayHandle]:
        """New actors, of whom all have started; once more where one was given to a node that has just gone."""
        for is_last in (False, True):
            handles = self._actors(names)
            self._handles += handles
            try:
                self._settle(handles, timeout_seconds)
                return handles
            except BaseException as error:
                end_actors(handles)
                lost_a_node = any(handle.node.loss for handle in handles)
                if (
                    is_last
                    or not lost_a_node
                    or not isinstance(error, FleetError)
                    or not self._nodes.living()
                ):
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _settle(self, handles: Sequence[RayHandle], timeout_seconds: float | None) -> None:
        """Waits until all have started, and if they are a group know one another."""
        self._nodes.settle(_START_SECONDS)
        for handle in handles:
            if handle.node.loss:
                raise FleetError(f"{handle.name} cannot be started: {handle.node.loss}")
        hosts = self._place(handles)
        if timeout_seconds is not None:
            self._join(handles, hosts, timeout_seconds)

    def _actors(self, names: Sequence[str]) -> list[RayHandle]:
        """Actors on living nodes, in turn. Ray's word for who lives is taken only before any keeper has answered."""
        new = self._nodes.look()
        living = self._nodes.living()
        if living or self._has_started:
            living = self._nodes.settled(_NEW_NODE_SECONDS, _ROOM_SECONDS)
        nodes = {node.node_id: node for node in living or new}
        self._handles = [handle for handle in self._handles if not handle.is_ended]
        taken = Counter(handle.node.node_id for handle in self._handles)
        cpus = {node_id: node.num_cpus for node_id, node in nodes.items()}
        places, num_cpus = shares(cpus, taken, len(names), may_share=self._has_started)
        self._has_started = True
        sources = self._ray.put(own_sources())
        return [
            self._actor(name, nodes[place], sources, num_cpus)
            for name, place in zip(names, places, strict=True)
        ]

    def _actor(self, name: str, node: Node, sources: Any, num_cpus: float) -> RayHandle:
        kept = {"max_restarts": 0, "scheduling_strategy": pinned_to(self._ray, node.node_id)}
        kept["num_cpus"] = num_cpus
        actor = self._ray.remote(**kept)(RayService).remote(name, sources)
        return RayHandle(self._ray, name, actor, node, self._losses)

    def _dumped(
        self, names: Sequence[str], makers: Sequence[Callable[..., Any]]
    ) -> list[tuple[bytes, list[Any]]]:
        """Each maker's bytes, and references to the large arrays that it holds, which are sent once a node."""
        buffers = Buffers()
        dumped = [dump_maker(*pair, SharedArrays(), buffers) for pair in zip(names, makers, strict=True)]
        references = [self._ray.put(np.frombuffer(view, np.uint8)) for view in buffers.views]
        return [(maker, [references[index] for index in used]) for maker, used in dumped]

    def _place(self, handles: Sequence[RayHandle]) -> list[str]:
        """The address of each actor's node; FleetError where one does not start, or is of other versions."""
        asked = [(handle, handle.ask("place")) for handle in handles]
        deadline, hosts = time.monotonic() + _START_SECONDS, []
        for handle, answer in asked:
            left = max(0.0, deadline - time.monotonic())
            try:
                process_id, host, machine, found = handle.wait("its start", answer, left)
            except FleetError as error:
                raise FleetError(f"{error}{self._if_full(handle.node)}") from error
            handle.who, handle.process_id = f"{handle.name} (process {process_id} on {machine})", process_id
            refuse_other_versions(handle.who, found, versions())
            handle.node.watch(process_id)
            hosts.append(self._host or host)
        return hosts

    def _if_full(self, node: Node) -> str:
        """What to add to the error of a start, if Ray has no CPU left on that node."""
        from ray._private import state

        left = state.available_resources_per_node().get(node.node_id)
        if left is None or left.get("CPU", 0.0) >= 1:
            return ""
        return (
            "; all CPUs of its node are taken, and each worker waits for one: fewer --workers work, or other jobs of "
            "this cluster have to end"
        )

    def _join(self, handles: Sequence[RayHandle], hosts: Sequence[str], timeout_seconds: float) -> None:
        """Connects the actors with one another."""
        places = zip(handles, hosts, strict=True)
        asked = [(handle, handle.ask("listen", host, self._interface)) for handle, host in places]
        addresses: list[Address] = [_told(handle, "its start", answer) for handle, answer in asked]
        names, token = [handle.who for handle in handles], new_token()
        members = [
            RayMembership(rank, names, addresses, token, timeout_seconds) for rank in range(len(handles))
        ]
        joined = [
            (handle, handle.ask("join", member, _START_SECONDS / 2))
            for handle, member in zip(handles, members, strict=True)
        ]
        for handle, answer in joined:
            _told(handle, "connecting with its group", answer)
        for handle in handles:
            handle.group = handles


def _told(handle: RayHandle, doing: str, answer: PythonFuture[Any]) -> Any:
    return load_reply(handle.wait(doing, answer, _START_SECONDS), handle.who)


def refuse_other_versions(who: str, found: dict[str, str], ours: dict[str, str]) -> None:
    """FleetError naming the first package of which a worker has another version than this process."""
    for package, version in ours.items():
        if found.get(package) != version:
            raise FleetError(
                f"{who} has {package} {found.get(package)}, and this process {version}; the same versions of "
                f"{', '.join(ours)} on every node work"
            )
