"""The nodes of a Ray cluster as the driver sees them: who lives, and how the workers' processes are."""

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, final

from qfleet.backends.kept_values import CONTROL, HELLO
from qfleet.backends.network_mesh import Address, new_token
from qfleet.backends.ray_keeper import BEAT_SECONDS, GONE, RECORD, STOPPED, WATCH, Keeper
from qfleet.errors import FleetError

_SILENCE_SECONDS = 1.5
_SEND_SECONDS = 1.0
_SLEPT_SECONDS = 1.0
_WHY = {STOPPED: "its process has been stopped (SIGSTOP)", GONE: "its process has ended"}


@final
class Node:
    """One machine, or what passes for one, and the keeper on it."""

    def __init__(self, node_id: str, machine: str, num_cpus: int, keeper: Any, opened: Any) -> None:
        self.node_id, self.machine, self.num_cpus = node_id, machine, num_cpus
        self.keeper, self.opened = keeper, opened
        """The actor, and the reference to where it answers."""
        self.place: Address | None = None
        self.loss: str | None = None
        """Why it counts as gone."""
        self.is_closed = False
        """Whether it cannot come back: who is only silent may speak again."""
        self.connection: socket.socket | None = None
        self.heard = time.monotonic()
        self._unhealthy: dict[int, bytes] = {}
        self._come = bytearray()

    def connect(self, place: Address, token: bytes) -> None:
        """To its keeper; OSError if that does not answer."""
        self.connection = socket.create_connection(place, _SEND_SECONDS)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.sendall(HELLO.pack(token, CONTROL, 0, 0))
        self.place, self.heard = place, time.monotonic()

    def ask(self, kind: bytes, number: int) -> None:
        """Sends the keeper a record."""
        if self.connection is None or self.is_closed:
            return
        try:
            self.connection.sendall(RECORD.pack(kind, number))
        except OSError as error:
            self.lose(f"its node {self.machine} is gone ({error})", for_good=True)

    def watch(self, process_id: int) -> None:
        """From now on, `trouble` knows of it."""
        self._unhealthy.pop(process_id, None)
        self.ask(WATCH, process_id)

    def trouble(self, process_id: int) -> str | None:
        """What has become of a process, or of the node; None if it is well."""
        state = self._unhealthy.get(process_id)
        return self.loss or (_WHY[state] if state is not None else None)

    def is_gone(self, process_id: int) -> bool:
        """Whether the process has ended, as far as anybody can know."""
        return self.loss is not None or self._unhealthy.get(process_id) == GONE

    def lose(self, why: str, *, for_good: bool) -> None:
        """The first reason stays."""
        self.loss = self.loss or why
        self.is_closed = self.is_closed or for_good

    def hear(self) -> None:
        """Takes what the keeper says."""
        assert self.connection is not None
        try:
            come = self.connection.recv(4096)
        except OSError as error:
            come = b""
            self.lose(f"its node {self.machine} is gone ({error})", for_good=True)
        if not come:
            self.lose(f"its node {self.machine} is gone: its keeper has closed its connection", for_good=True)
            return
        self._come += come
        self.heard, self.loss = time.monotonic(), None
        while len(self._come) >= RECORD.size:
            kind, number = RECORD.unpack_from(self._come)
            del self._come[: RECORD.size]
            if kind in _WHY:
                self._unhealthy[number] = kind

    def close(self) -> None:
        """Ends the keeper."""
        if self.connection is not None:
            self.connection.close()


@final
class Nodes:
    """Keepers on all living nodes, and a thread that listens to them."""

    def __init__(self, ray: Any, host: str, interface: str) -> None:
        """`host`: where keepers answer, empty for their node's own address."""
        self._ray, self._host, self._interface = ray, host, interface
        self.token = new_token()
        self._known: dict[str, Node] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="keepers of the nodes", daemon=True)
        self._thread.start()

    def living(self) -> list[Node]:
        """Nodes whose keepers answer."""
        return [node for node in self._known.values() if node.place is not None and node.loss is None]

    def look(self) -> list[Node]:
        """Starts keepers on nodes that are seen for the first time; those that have not answered yet."""
        for found in self._ray.nodes():
            num_cpus = int(found["Resources"].get("CPU", 0))
            if found["Alive"] and num_cpus and found["NodeID"] not in self._known:
                self._add(found["NodeID"], found["NodeManagerHostname"], num_cpus)
        return [node for node in self._known.values() if node.place is None and node.loss is None]

    def settle(self, timeout_seconds: float) -> None:
        """Waits for the keepers that have been started; nodes where one does not answer count as gone."""
        deadline = time.monotonic() + timeout_seconds
        for node in self.look():
            try:
                place = node.opened.result(max(0.0, deadline - time.monotonic()))
                if isinstance(place, str):
                    node.lose(place, for_good=True)
                else:
                    node.connect(place, self.token)
            except Exception as error:  # Ray's, a deadline's or the network's
                node.lose(
                    f"its node {node.machine} cannot start a keeper ({cause_of(error)}); the same version of Qfleet "
                    "on every node works",
                    for_good=True,
                )

    def hear_all(self) -> None:
        """Returns once every node has said that it lives, or counts as gone."""
        asked, deadline = time.monotonic(), time.monotonic() + _SILENCE_SECONDS + 2 * BEAT_SECONDS
        while any(node.heard < asked for node in self.living()) and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 10)

    def settled(self, timeout_seconds: float, patience_seconds: float) -> list[Node]:
        """Nodes that live once new ones were given a moment to answer; while there are none they are waited for."""
        deadline = time.monotonic() + patience_seconds
        while True:
            self.settle(timeout_seconds)
            if (living := self.living()) or time.monotonic() >= deadline:
                return living
            time.sleep(BEAT_SECONDS)

    def close(self) -> None:
        """Ends the keepers."""
        self._closing.set()
        self._thread.join(2.0)
        for node in self._known.values():
            node.close()
            with suppress(Exception):
                self._ray.kill(node.keeper)

    def _add(self, node_id: str, machine: str, num_cpus: int) -> None:
        kept = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": pinned_to(self._ray, node_id)}
        keeper = self._ray.remote(**kept)(Keeper).remote(self.token)
        opened = keeper.open.remote(self._host, self._interface).future()
        self._known[node_id] = Node(node_id, machine, num_cpus, keeper, opened)

    def _listen(self) -> None:
        """Who is silent for too long is gone; unless it was this process that slept."""
        looked = time.monotonic()
        while not self._closing.is_set():
            nodes = [node for node in self._known.values() if node.place is not None and not node.is_closed]
            for node in self._ready(nodes):
                node.hear()
            now = time.monotonic()
            for node in nodes:
                if now - looked > _SLEPT_SECONDS:
                    node.heard = now
                elif now - node.heard > _SILENCE_SECONDS:
                    node.lose(f"its node {node.machine} does not answer any more", for_good=False)
            looked = now

    def _ready(self, nodes: Sequence[Node]) -> list[Node]:
        """Those that have said something, after a moment at most."""
        with selectors.DefaultSelector() as selector:
            for node in nodes:
                assert node.connection is not None
                selector.register(node.connection, selectors.EVENT_READ, node)
            if not nodes:
                self._closing.wait(BEAT_SECONDS)
                return []
            return [key.data for key, _ in selector.select(BEAT_SECONDS)]


def pinned_to(ray: Any, node_id: str) -> Any:
    """The scheduling strategy of an actor that runs there or nowhere."""
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)


def spread(room: Mapping[str, int], taken: Mapping[str, int], num_workers: int) -> list[str]:
    """A node for each worker, of those with room left the one that has fewest; FleetError if there is not enough.

    Who is started alone goes by this, too, to where fewest are, and not to the first node until it is full.
    """
    left, there = dict(room), Counter(taken)
    if sum(left.values()) < num_workers:
        raise FleetError(
            f"{num_workers} workers take a CPU each, and the cluster has {sum(left.values())}; fewer --workers, or "
            "another node, work"
        )
    places: list[str] = []
    for _ in range(num_workers):
        place = min((node_id for node_id, free in left.items() if free > 0), key=there.__getitem__)
        places.append(place)
        left[place] -= 1
        there[place] += 1
    return places


def shares(
    cpus: Mapping[str, int], taken: Mapping[str, int], num_workers: int, *, may_share: bool
) -> tuple[list[str], float]:
    """A node for each worker, and the CPUs that each takes; FleetError if there are not enough and none may be shared.

    Who comes later shares CPUs where all are taken, or fewer are left than there were: slower is better than not.
    """
    room = {node_id: max(0, number - taken.get(node_id, 0)) for node_id, number in cpus.items()}
    total = sum(room.values())
    if may_share and room and not total:
        return spread(dict.fromkeys(room, num_workers), taken, num_workers), 0.0
    crowd = -(-num_workers // max(1, total)) if may_share else 1
    room = {node_id: crowd * number for node_id, number in room.items()}
    return spread(room, taken, num_workers), 1 / crowd


def cause_of(error: BaseException) -> str:
    """What Ray says of it, in one line and without its advice."""
    text = " ".join(str(error).split())
    _, found, detail = text.partition("Worker exit detail: ")
    if found:
        return detail.partition(" Some common causes")[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (raised or lines or [type(error).__name__])[-1 if raised else 0]
