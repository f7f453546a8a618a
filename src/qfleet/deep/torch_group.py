"""torch.distributed among the members of a group: what PyTorch's split layers talk through, and GPUs' gradients.

Of the group it takes where to meet, and the names of those that are lost; the network's numbers go through gloo, or
between GPUs through NCCL.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import DeviceMesh

from qfleet.deep.whereabouts import network, process, tell_all
from qfleet.errors import FleetError, QfleetError
from qfleet.fleet import Group

_LOOPBACK, _LOOPBACK_INTERFACE = "127.0.0.1", "lo"
_INTERFACE_VARIABLES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
_ADDRESS_OF_INTERFACE = 0x8915
"""SIOCGIFADDR of Linux."""
_CPU = torch.device("cpu")


@final
class TorchGroup:
    """One member's place among processes that compute together; there is one at a time in a process."""

    def __init__(self, group: Group, timeout_seconds: float, device: torch.device = _CPU) -> None:
        """All members call it together, on GPUs each with one of its own; FleetError naming one that does not come.

        Half of `timeout_seconds`, the deadline of `group`, is that of each message, a quarter that of finding out
        who is lost.
        """
        if distributed.is_initialized():
            raise QfleetError("this process is a member of a process group of torch.distributed already")
        self.rank, self.size, self._group = group.rank, group.size, group
        self._message, self._roll_call = timedelta(seconds=timeout_seconds / 2), timeout_seconds / 4
        self._is_of_gpus = device.type != "cpu"
        backend = "nccl" if self._is_of_gpus else "gloo"
        variable = _INTERFACE_VARIABLES[backend]
        interface, address = _meeting_place(group, variable)
        self._store = _open_store(group, address, self._message)
        with self.naming_the_lost(), _speaking_on(interface, variable):
            distributed.init_process_group(
                backend,
                store=self._store,
                rank=self.rank,
                world_size=self.size,
                timeout=self._message,
                device_id=device if self._is_of_gpus else None,
            )

    @cached_property
    def mesh(self) -> DeviceMesh:
        """All members, as PyTorch's split layers name them; on CPUs."""
        return DeviceMesh("cpu", list(range(self.size)))

    def add_up(self, tensor: Tensor) -> None:
        """Puts the sum of all members' tensors, on their devices, in the place of each; the same bits everywhere."""
        if self._is_of_gpus:
            self._group.barrier()  # NCCL does not say who is lost: whoever waits for it too long is aborted
        with self.naming_the_lost():
            distributed.all_reduce(tensor)

    def average(self, tensor: Tensor) -> None:
        """Puts the mean of all members' tensors in the place of each."""
        self.add_up(tensor)
        tensor /= self.size

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


def _meeting_place(group: Group, variable: str) -> tuple[str, str]:
    """The interface this member speaks on and its address there; raises QfleetError if members are threads."""
    said = tell_all(group, f"{network()} {process()} {socket.gethostname()}")
    networks, processes, hosts = zip(*(line.split(" ") for line in said), strict=True)
    if len(set(processes)) < group.size:
        raise QfleetError(
            "model-parallel needs a process for each worker, and threads share one; "
            "--backend processes, ray or mpi works"
        )
    elsewhere = [host for host, name in zip(hosts, networks, strict=True) if name != network()]
    if not elsewhere:
        return _LOOPBACK_INTERFACE, _LOOPBACK
    address = _address_towards(elsewhere[0])
    return os.environ.get(variable) or _interface_of(address), address


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
def _speaking_on(interface: str, variable: str) -> Iterator[None]:
    """Both take their interface from the environment; without it, gloo listens wherever the machine's name leads."""
    before = os.environ.get(variable)
    os.environ[variable] = interface
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


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
