"""Run under mpiexec, by test_mpi.py: tables that the ranks learn are those of as many threads of rank 0, bit for bit.

And what else is asked of ranks alone: large messages, waits that leave the core to others, children of their own.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from qfleet.backends.mpi import MpiFleet
from qfleet.backends.mpi_launch import num_ranks, this_job
from qfleet.backends.processes import ProcessFleet
from qfleet.errors import FleetError
from qfleet.fleet import Group
from qfleet.launcher import is_launched, without_launcher
from tests.backends.members import Members
from tests.topologies.table_teams import Config, learn, task_of
from tests.topologies.test_table_bits import CONFIGS, STEPS, VISITS, WORLDS

SIZE = num_ranks() or 1
SCHEMES: dict[str, Config] = {**CONFIGS, "visits": VISITS}


@pytest.fixture(scope="module")
def threads() -> Iterator[Members]:
    yield from _opened("threads")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Members]:
    yield from _opened("mpi")


def _opened(backend: str) -> Iterator[Members]:
    group = Members(backend, SIZE, timeout_seconds=250.0)
    yield group
    group.fleet.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_learn_what_threads_learn(world: str, scheme: str, threads: Members, ranks: Members) -> None:
    task, config = task_of(WORLDS[world], "q-learning", STEPS, SIZE), SCHEMES[scheme]
    one, other = (learn(group, task, config) for group in (threads, ranks))
    assert one.tobytes() == other.tobytes()
    assert (one > 0).sum() > 200


def test_cut_into_turns_too(threads: Members, ranks: Members) -> None:
    task = task_of(WORLDS["grid"], "sarsa", STEPS, SIZE, table_type="float32")
    for scheme in ("equal", "partitioned"):
        whole = learn(threads, task, SCHEMES[scheme])
        assert learn(ranks, task, SCHEMES[scheme], (1, 977, 40_000)).tobytes() == whole.tobytes()


def _swap(group: Group, num_bytes: int) -> bool:
    sent = np.arange(num_bytes // 8) + group.rank
    received = group.exchange([sent if rank != group.rank else sent[:0] for rank in range(group.size)])
    return all(
        array.size == 0
        if rank == group.rank
        else bool((array[::4093] == sent[::4093] - group.rank + rank).all())
        for rank, array in enumerate(received)
    )


@pytest.mark.skipif(SIZE != 2, reason="memory")
def test_messages_of_256_mb_and_more_than_a_chunk(ranks: Members) -> None:
    for num_bytes in (256_000_000, (1 << 28) + 8):
        assert all(ranks.run(_swap, num_bytes))


def _cpu_seconds_of_waiting(group: Group, seconds: float) -> float:
    group.barrier()
    before = time.process_time()
    if group.rank == 0:
        time.sleep(seconds)
    group.barrier()
    return time.process_time() - before


def test_who_waits_leaves_the_core_to_others(ranks: Members) -> None:
    assert max(ranks.run(_cpu_seconds_of_waiting, 1.0)) < 0.3


def _process_seconds(group: Group) -> float:
    return time.process_time()


def test_so_does_who_has_no_call_to_run(ranks: Members) -> None:
    before = ranks.run(_process_seconds)
    time.sleep(1.0)
    after = ranks.run(_process_seconds)
    assert all(later - earlier < 0.3 for earlier, later in zip(before[1:], after[1:], strict=True))


def _of_launcher(group: Group) -> list[str]:
    """What a child of this rank's finds in its environment."""
    script = "import os; print(*[name for name in os.environ if name.startswith(('OMPI', 'PMI', 'PRTE'))])"
    command = [sys.executable, "-c", script]
    seen = subprocess.check_output(command, env=without_launcher(os.environ), text=True)
    assert is_launched()
    return seen.split()


class Launched:
    def is_launched(self) -> bool:
        return is_launched()


def test_children_of_a_rank_do_not_take_themselves_for_ranks(ranks: Members) -> None:
    assert ranks.run(_of_launcher) == [[]] * SIZE
    fleet = ProcessFleet()
    assert fleet.start("a child", Launched).call("is_launched").result(30) is False
    fleet.close()


def test_a_group_is_all_ranks_once(ranks: Members) -> None:
    said = f"an MPI job of {SIZE} ranks has one group of {SIZE} members at a time; got"
    fleet = MpiFleet(this_job())
    with pytest.raises(FleetError, match=f"{said} {SIZE + 1}"):
        fleet.start_group(["worker"] * (SIZE + 1), [Launched] * (SIZE + 1), 5.0)  # type: ignore[list-item]
    with pytest.raises(FleetError, match="ranks share no memory"):
        fleet.shared_array((3,), "f8")


def test_ranks_meet_in_rounds_only(ranks: Members) -> None:
    fleet = MpiFleet(this_job())
    own = fleet.start("the actor", Launched).call("is_launched")
    for ask in (lambda: fleet.board(10), lambda: own.when_done(print)):
        with pytest.raises(
            FleetError, match=r"services meet in rounds only; .* --backend threads, processes or ray"
        ):
            ask()
    assert own.result(5)
