"""The life of a service in a Ray actor: find a place, join the others, make the service, run its calls."""

import functools
import os
import pickle
import platform
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.backends.budget import num_cores, set_thread_budget
from qfleet.backends.futures import given, one_line
from qfleet.backends.kept_values import keep_value
from qfleet.backends.message_memory import Keep, LargeArrays
from qfleet.backends.network_group import NetworkGroup
from qfleet.backends.network_mesh import Address, Listener, address_of
from qfleet.backends.replies import dump_failure, dump_result, load_reply
from qfleet.backends.service_pickling import load_maker
from qfleet.backends.user_modules import SentModules, Sources
from qfleet.errors import FleetError
from qfleet.fleet import Answer
from qfleet.version import __version__

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


Parts = tuple[bytes, list[NDArray[np.uint8]]]
"""A pickled value, and its large arrays, which Ray copies into its object store and lets others read there."""
Head = tuple[tuple[str, bytes] | None, Parts | None]
"""Who has failed and how, or None; what the caller gets, where that is small, or is not what others get."""
Outcome = tuple[Head, Parts | None]
"""Of a call, as two objects: what its caller waits for; the value."""
_SMALL_BYTES = 2**13


def dump_parts(dump: Callable[[Keep], bytes]) -> Parts:
    """What `dump` pickles."""
    large = LargeArrays()
    data = dump(large.keep)
    return data, [np.frombuffer(view, np.uint8) for view in large.views]


def _outcome_with(returned: Any) -> Outcome:
    value = dump_parts(functools.partial(dump_result, given(returned)))
    if isinstance(returned, Answer):
        return (None, dump_parts(functools.partial(dump_result, returned.told))), value
    is_small = not value[1] and len(value[0]) <= _SMALL_BYTES
    return (None, value if is_small else None), value


def own_value(parts: Parts) -> Any:
    """A method's return value, its arrays the caller's own."""
    return load_reply(parts[0], "", _copies(parts))


def _lent_value(parts: Parts) -> Any:
    """The same; its large arrays lie in Ray's object store, read-only."""
    return load_reply(parts[0], "", [array.data for array in parts[1]])


def _copies(parts: Parts) -> list[memoryview]:
    return [array.copy().data for array in parts[1]]


@dataclass(frozen=True)
class RayMembership:
    """An actor's place in a group."""

    rank: int
    names: list[str]
    addresses: list[Address]
    """Where each member listens."""
    token: bytes
    """By which members know one another."""
    timeout_seconds: float


def versions() -> dict[str, str]:
    """Of what must be the same on all nodes: the same seed is to give the same bits, and kernels travel by name."""
    packages = {name: version(name) for name in ("numpy", "numba")}  # importing numba takes half a second
    return {"Python": platform.python_version(), "qfleet": __version__, **packages}


@final
class RayService:
    """What the actor is; its methods are called one at a time, in order."""

    def __init__(self, name: str, sources: Sources) -> None:
        SentModules(sources).install()
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
        self._who = name
        self._service: Any = None
        self._failure: BaseException | None = None
        self._listener: Listener | None = None
        self._group: NetworkGroup | None = None

    def place(self) -> tuple[int, str, str, dict[str, str]]:
        """The process id, the node's address, the machine's name and its versions."""
        import ray

        self._who = f"{self._who} (process {os.getpid()} on {socket.gethostname()})"
        return os.getpid(), ray.util.get_node_ip_address(), socket.gethostname(), versions()

    def listen(self, host: str, interface: str) -> bytes:
        """Begins to listen on the interface, or on the host's address; the host and port."""
        try:
            self._listener = Listener(address_of(interface) if interface else host)
            return dump_result(self._listener.address)
        except FleetError as error:
            return dump_failure(error)

    def join(self, membership: RayMembership, timeout_seconds: float) -> bytes:
        """Connects with the other members."""
        assert self._listener is not None
        rank, names = membership.rank, membership.names
        self._who = names[rank]
        try:
            peers = self._listener.connect(
                rank, names, membership.addresses, membership.token, timeout_seconds
            )
        except FleetError as error:
            return dump_failure(error)
        self._group = NetworkGroup(rank, names, peers, membership.timeout_seconds)
        return dump_result(None)

    def make(self, maker: bytes, *buffers: Any) -> None:
        """Makes the service; if that fails, every call says so."""
        try:
            # The bytes come from the driver, by way of Ray.
            make = load_maker(maker, [], [memoryview(buffer) for buffer in buffers])
            self._keep_to_one_thread()
            self._service = make() if self._group is None else make(self._group)
        except BaseException as error:  # told to whoever calls
            self._failure = error
            self._tell_group(error)

    def call(self, method: str, own: Parts, places: Sequence[int], *outcomes: Any) -> Outcome:
        """Runs a method; `outcomes` are of other calls, whose values stand at these places among its arguments."""
        for failure, _ in outcomes[::2]:
            if failure is not None:
                return (failure, None), None
        return self._outcome(lambda: self._run(method, own, zip(places, outcomes[1::2], strict=True)))

    def keep(self, method: str, own: Parts, key: int, places: Sequence[Address], token: bytes) -> Outcome:
        """Runs a method, and gives what it returned to keepers; which of them took it, or what was raised."""
        return self._outcome(lambda: keep_value(self._run(method, own, ()), key, places, token))

    def _run(self, method: str, own: Parts, given: Iterable[tuple[int, Parts]]) -> Any:
        if self._failure is not None:
            raise self._failure
        arguments = list(pickle.loads(own[0], buffers=_copies(own)))  # noqa: S301 - from the driver
        for place, parts in given:
            arguments.insert(place, _lent_value(parts))
        return getattr(self._service, method)(*arguments)

    def _outcome(self, run: Callable[[], Any]) -> Outcome:
        try:
            return _outcome_with(run())
        except BaseException as error:  # told to whoever waits for the result
            self._tell_group(error)
            return ((self._who, dump_failure(error)), None), None

    def _keep_to_one_thread(self) -> None:
        set_thread_budget(num_own_threads=num_cores())

    def _tell_group(self, error: BaseException) -> None:
        """Nobody is to wait for a member that has left its work in the middle."""
        if self._group is not None:
            self._group.break_up(f"{self._who} failed with {one_line(error)}")
