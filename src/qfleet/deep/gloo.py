"""torch.distributed among the members of a group: what PyTorch's split layers talk through.

Of the group it takes where to meet, and the names of those that are lost; the network's numbers go through gloo.
"""

import fcntl
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, final

import numpy as np
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import DeviceMesh

from qfleet.errors import FleetError, QfleetError
from qfleet.fleet import Group

_LOOPBACK, _LOOPBACK_INTERFACE = "127.0.0.1", "lo"
_INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
_ADDRESS_OF_INTERFACE = 0x8915
"""SIOCGIFADDR of Linux."""
_THIS_PROCESS = secrets.token_hex(8)


@final
class GlooGroup:
    """One member's place among processes that compute one network; there is one at a time in a process."""

    def __init__(self, group: Group, timeout_seconds: float) -> None:
        """All members call it together; FleetError naming one that does not come.

        Half of `timeout_seconds`, the deadline of `group`, is that of each message, a quarter that of finding out
        who is lost.
        """
        if distributed.is_initialized():
            raise QfleetError("this process is a member of a process group of torch.distributed already")
        self.rank, self.size, self._group = group.rank, group.size, group
        self._message, self._roll_call = timedelta(seconds=timeout_seconds / 2), timeout_seconds / 4
        interface, address = _meeting_place(group)
        self._store = _open_store(group, address, self._message)
        with self.naming_the_lost(), _speaking_on(interface):
            distributed.init_process_group(
                "gloo", store=self._store, rank=self.rank, world_size=self.size, timeout=self._message
            )
        self.mesh = DeviceMesh("cpu", list(range(self.size)))

    def add_up(self, tensor: Tensor) -> None:
        """Puts the sum of all members' tensors in the place of each; the same bits everywhere."""
        with self.naming_the_lost():
            distributed.all_reduce(tensor)

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Says which member is lost where messages of PyTorch's layers end or do not come."""
        try:
            yield
        except RuntimeError as error:
            if not _is_of_messages(error):
                raise
            if "imed out" not in str(error):
                self._group.barrier()  # someone has ended: the group knows who, or will at once
            raise FleetError(f"{self._silent()} within {self._message.total_seconds():g} s") from error

    def _silent(self) -> str:
        """Who does not answer the others; all that are here say so in the store, which is worker 0's."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        for rank in [self.rank, *others]:
            try:
                if rank == self.rank:
                    self._store.set(f"here/{rank}", "1")
                else:
                    self._store.wait([f"here/{rank}"], timedelta(seconds=self._roll_call / self.size))
            except RuntimeError:
                return f"worker {rank if rank != self.rank else 0} has not answered the others"
        return "the workers have not heard from one another"

    def close(self) -> None:
        """Leaves; safe to call twice."""
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _is_of_messages(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _network() -> str:
    """What is the same for processes that can meet on the loopback."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"


def _meeting_place(group: Group) -> tuple[str, str]:
    """The interface this member speaks on and its address there; raises QfleetError if members are threads."""
    own = f"{_network()} {os.getpid()}/{_THIS_PROCESS} {socket.gethostname()}"
    said = [part.tobytes().decode() for part in group.exchange([_bytes(own)] * group.size)]
    networks, processes, hosts = zip(*(line.split(" ") for line in said), strict=True)
    if len(set(processes)) < group.size:
        raise QfleetError(
            "model-parallel needs a process for each worker, and threads share one; "
            "--backend processes, ray or mpi works"
        )
    elsewhere = [host for host, network in zip(hosts, networks, strict=True) if network != _network()]
    if not elsewhere:
        return _LOOPBACK_INTERFACE, _LOOPBACK
    address = _address_towards(elsewhere[0])
    return os.environ.get(_INTERFACE_VARIABLE) or _interface_of(address), address


def _bytes(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


def _address_towards(host: str) -> str:
    """This machine's address, as it is seen from another machine."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError as error:
            raise FleetError(
                f"the machine {host}, where another worker lives, is not known here by that name ({error}); "
                "all machines of a cluster need one another's names"
            ) from error
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                found = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    raise FleetError(f"no network interface of {socket.gethostname()} has the address {address}")


@contextmanager
def _speaking_on(interface: str) -> Iterator[None]:
    """gloo takes its interface from the environment; without it, it listens wherever the machine's name leads."""
    before = os.environ.get(_INTERFACE_VARIABLE)
    os.environ[_INTERFACE_VARIABLE] = interface
    try:
        yield
    finally:
        if before is None:
            del os.environ[_INTERFACE_VARIABLE]
        else:
            os.environ[_INTERFACE_VARIABLE] = before


def _open_store(group: Group, address: str, timeout: timedelta) -> TCPStore:
    """Where members look one another up: worker 0 keeps it, on a port that it tells the group."""
    if group.rank:
        host, port = group.broadcast(_bytes(""), 0).tobytes().decode().split(" ")
        return TCPStore(host, int(port), group.size, is_master=False, timeout=timeout)
    # Left to itself it would listen on every network of the machine.
    listening = socket.create_server((address, 0), backlog=1024)
    port = listening.getsockname()[1]
    store = TCPStore(
        address,
        port,
        group.size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
    group.broadcast(_bytes(f"{address} {port}"), 0)
    return store
