"""A split network is the unsplit one within rounding: values, gradients, updates, checkpoints; and its faults."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qfleet.backends.mpi_launch import num_ranks
from qfleet.deep.split import Split, join_states
from qfleet.deep.torch_group import TorchGroup
from qfleet.errors import FleetError, NonFiniteError, QfleetError
from qfleet.fleet import Group
from tests.backends.members import Members
from tests.backends.mpiexec import ROOT
from tests.deep import split_learners
from tests.deep.split_learners import NETWORKS, measured, unsplit
from tests.deep.test_learners import CONFIG

CLIPPED = replace(CONFIG, max_gradient_norm=0.1)
SOFT = replace(CLIPPED, target_update_rate=0.3, target_update_every_updates=2, double=False)
IS_MPI = num_ranks() is not None
PAIR = ("processes", 2)
SLOW = [pytest.param(group, marks=pytest.mark.soak) for group in (("processes", 3), ("ray", 2))]
GROUPS: list[Any] = [("mpi", num_ranks())] if IS_MPI else [PAIR, ("processes", 4), *SLOW]


def run(members: Members, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """With time enough to import PyTorch in every process of a busy machine."""
    futures = [handle.call("run", function, *arguments) for handle in members.handles]
    return [future.result(250) for future in futures]


@pytest.fixture(scope="module", params=GROUPS, ids=str)
def members(request: pytest.FixtureRequest) -> Iterator[Members]:
    group = Members(*request.param, timeout_seconds=200.0)
    yield group
    group.fleet.close()


@pytest.fixture(scope="module")
def learned(members: Members) -> list[dict[str, dict[str, Any]]]:
    """By rank and network."""
    return run(members, split_learners.learn_all, list(NETWORKS), CLIPPED)


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Any]]:
    return {name: measured(unsplit(name, CLIPPED), name, CLIPPED) for name in NETWORKS}


def _joined(ranks: list[dict[str, Any]], name: str) -> np.ndarray:
    return ranks[0]["split"].join([rank[name] for rank in ranks])


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_computed_and_learned_is_the_unsplit_networks(
    name: str, learned: list[dict[str, dict[str, Any]]], whole: dict[str, dict[str, Any]]
) -> None:
    ranks, expected = [rank[name] for rank in learned], whole[name]
    np.testing.assert_array_equal(_joined(ranks, "start"), expected["start"])
    np.testing.assert_allclose(_joined(ranks, "gradient"), expected["gradient"], atol=3e-7)
    for rank in ranks:
        for what in ("values", "later", "td_errors"):
            np.testing.assert_allclose(rank[what], expected[what], atol=2e-6)
        assert rank["statistics"] == pytest.approx(expected["statistics"], rel=1e-5)
    state = join_states(ranks[0]["split"], [rank["state"] for rank in ranks])
    moved = np.abs(state["parameters"] - expected["start"]).max()
    assert moved > 5e-3 and expected["statistics"]["train/gradient_norm"] > 2 * CLIPPED.max_gradient_norm
    for what in ("parameters", "target", "moments"):
        np.testing.assert_allclose(state[what], expected["state"][what], atol=2e-4 * moved)
    for what in ("buffers", "target_buffers"):
        assert state[what].keys() == expected["state"][what].keys()
        for key, buffer in state[what].items():
            np.testing.assert_allclose(buffer, expected["state"][what][key], atol=1e-5)


def test_each_rank_holds_its_part_and_what_is_replicated_stays_the_same_bits(
    members: Members, learned: list[dict[str, dict[str, Any]]]
) -> None:
    for name in NETWORKS:
        split: Split = learned[0][name]["split"]
        vectors = [rank[name]["state"]["parameters"] for rank in learned]
        assert all(len(vector) == split.num_own_parameters < split.num_parameters for vector in vectors)
        spans = zip(split.tensors, split.part_spans(), strict=True)
        replicated = [span for tensor, span in spans if tensor.axis is None]
        assert replicated and split.num_parts == members.size
        for span in replicated:
            assert all(vector[span].tobytes() == vectors[0][span].tobytes() for vector in vectors)


@pytest.mark.parametrize("name", ["dueling", "users"])
def test_a_checkpoint_of_the_unsplit_network_goes_on_split(name: str, members: Members) -> None:
    one = unsplit(name, SOFT)
    replay = split_learners.filled_replay(NETWORKS[name], SOFT)
    one.learn(replay.view(), 10, 0.4)
    state = one.save_state()
    ranks = run(members, split_learners.go_on_from, name, SOFT, state)
    one.learn(split_learners.filled_replay(NETWORKS[name], SOFT).view(), 5, 0.4)
    found = join_states(ranks[0]["split"], [rank["state"] for rank in ranks])
    for what in ("parameters", "target", "moments"):
        np.testing.assert_allclose(found[what], one.save_state()[what], atol=2e-6)
        assert np.abs(found[what] - state[what]).max() > 1e-4


def test_one_of_k_ranks_is_loaded_by_one_and_by_others(
    members: Members, learned: list[dict[str, dict[str, Any]]]
) -> None:
    """Ten updates split over K, then five unsplit, and five split again over K from the joined state: the same."""
    ranks = [rank["dueling"] for rank in learned]
    state = join_states(ranks[0]["split"], [rank["state"] for rank in ranks])
    one = unsplit("dueling", CLIPPED)
    one.num_updates = 10
    one.load_state(state)
    one.learn(split_learners.filled_replay(NETWORKS["dueling"], CLIPPED).view(), 5, 0.4)
    split = run(members, split_learners.go_on_from, "dueling", CLIPPED, state)
    found = join_states(split[0]["split"], [rank["state"] for rank in split])
    np.testing.assert_allclose(found["parameters"], one.save_state()["parameters"], atol=2e-6)


def _learn_from_infinity(group: Group) -> tuple[str, bool]:
    learner = split_learners.split_learner(group, "mlp", CONFIG, 60.0)
    try:
        batch = split_learners.batch_of(learner, "mlp", CONFIG)
        batch.rewards[:] = np.inf
        before = learner.publish().vector
        with pytest.raises(NonFiniteError) as caught:
            learner.learn_batch(batch)
        return str(caught.value), bool((learner.publish().vector == before).all())
    finally:
        learner._torch_group.close()


def test_what_is_not_finite_is_refused_by_all_alike(members: Members) -> None:
    answers = run(members, _learn_from_infinity)
    assert all("update 1 is not finite" in text and unchanged for text, unchanged in answers)


def _listening(group: Group) -> list[str]:
    """The addresses that this process listens on, IPv4 and IPv6, before and with gloo: those that came."""
    before = _addresses()
    torch_group = TorchGroup(group, 60.0)
    group.barrier()
    came = _addresses() - before
    group.barrier()
    torch_group.close()
    return sorted(came)


def _addresses() -> set[str]:
    links = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    own = {name.removeprefix("socket:[").rstrip("]") for name in links if name.startswith("socket:[")}
    tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in own}


@pytest.mark.skipif(IS_MPI, reason="the same on every backend")
def test_one_machines_ranks_listen_on_the_loopback_alone(members: Members) -> None:
    for addresses in run(members, _listening):
        assert addresses and all(address.startswith("0100007F:") for address in addresses)


@pytest.mark.skipif(IS_MPI, reason="of processes")
@pytest.mark.parametrize("members", [PAIR], indirect=True, ids=str)
def test_a_network_over_a_workers_memory_limit_trains_split_and_not_whole(members: Members) -> None:
    for losses in run(members, split_learners.learn_within_limit, True):
        assert losses[-1] < 0.3 * losses[0]
    for said in run(members, split_learners.learn_within_limit, False):
        assert "allocate" in said


def _open_and_close(group: Group) -> None:
    TorchGroup(group, 20.0).close()


@pytest.mark.skipif(IS_MPI, reason="of threads")
def test_threads_are_refused_in_one_line() -> None:
    group = Members("threads", 2, 5.0)
    with pytest.raises(
        QfleetError, match=r"needs a process for each worker.*processes, ray or mpi"
    ) as caught:
        run(group, _open_and_close)
    assert "\n" not in str(caught.value)
    group.fleet.close()


def _learn_forever(group: Group, timeout_seconds: float, folder: Path) -> None:
    """Says by a file that it has begun."""
    learner = split_learners.split_learner(group, "mlp", CONFIG, timeout_seconds)
    view = split_learners.filled_replay(NETWORKS["mlp"], CONFIG).view()
    while True:
        learner.learn(view, 1, 0.4)
        (folder / str(group.rank)).touch()


def _process_id(group: Group) -> int:
    return os.getpid()


def _errors_after(
    act: Callable[[int], None], timeout_seconds: float, folder: Path
) -> tuple[list[str], float]:
    """What ranks 0 and 2 of 3 say after something is done to rank 1, and how soon."""
    group = Members("processes", 3, timeout_seconds)
    processes = run(group, _process_id)
    run(group, split_learners.one_network, "mlp", CONFIG)  # everything is imported and compiled
    futures = [handle.call("run", _learn_forever, timeout_seconds, folder) for handle in group.handles]
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    act(processes[1])
    started, said = time.monotonic(), []
    for rank in (0, 2):
        with pytest.raises(FleetError) as caught:
            futures[rank].result(60)
        said.append(str(caught.value))
    seconds = time.monotonic() - started
    with suppress(ProcessLookupError):
        os.kill(processes[1], signal.SIGKILL)
    group.fleet.close()
    return said, seconds


@pytest.mark.soak
@pytest.mark.skipif(IS_MPI, reason="mpiexec ends the job")
def test_a_rank_that_is_killed_is_named_at_once(tmp_path: Path) -> None:
    said, seconds = _errors_after(lambda process: os.kill(process, signal.SIGKILL), 60.0, tmp_path)
    assert seconds < 5 and all("worker 1" in line and "\n" not in line for line in said), said


@pytest.mark.soak
@pytest.mark.skipif(IS_MPI, reason="mpiexec ends the job")
def test_a_rank_that_hangs_is_named_within_the_deadline(tmp_path: Path) -> None:
    said, seconds = _errors_after(lambda process: os.kill(process, signal.SIGSTOP), 12.0, tmp_path)
    assert seconds < 12 and all("worker 1" in line and "\n" not in line for line in said), said


@pytest.mark.skipif(IS_MPI, reason="starts it")
def test_ranks_of_mpi() -> None:
    from tests.backends.test_mpi import run_tests

    assert run_tests(2, ROOT / "tests" / "deep" / "test_tensor_parallel.py") >= 8
