"""A service that runs any function of its group, and the groups that tests run them on."""

from collections.abc import Callable, Sequence
from typing import Any

from qfleet.backends.mpi_launch import num_ranks, this_job
from qfleet.backends.processes import ProcessFleet
from qfleet.backends.ray_fleet import RayFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.fleet import Fleet, Group, Handle
from tests.backends import ray_cluster


def _ray_fleet() -> Fleet:
    return RayFleet(ray_cluster.address())


def _mpi_fleet() -> Fleet:
    from qfleet.backends.mpi import MpiFleet

    return MpiFleet(this_job())


FLEETS: dict[str, Callable[[], Fleet]] = {
    "threads": ThreadFleet,
    "processes": ProcessFleet,
    "ray": _ray_fleet,
    "mpi": _mpi_fleet,
}
BACKENDS, SIZES = ["threads", "processes", "ray"], [1, 2, 3, 4]
"""What the conformance tests run on."""

if (ranks := num_ranks()) is not None:  # tests/backends/mpi_conformance.py runs the same tests on an MPI job
    BACKENDS, SIZES = ["mpi"], [ranks]


class Member:
    """One service of a group."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.group, *arguments)


class Members:
    """A group of them, called all at once."""

    def __init__(self, backend: str, size: int, timeout_seconds: float = 20.0) -> None:
        self.fleet, self.size = FLEETS[backend](), size
        names = [f"worker {rank}" for rank in range(size)]
        self.handles: Sequence[Handle] = self.fleet.start_group(names, [Member] * size, timeout_seconds)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(group, *arguments)` gives on every rank."""
        futures = [handle.call("run", function, *arguments) for handle in self.handles]
        return [future.result(60) for future in futures]
