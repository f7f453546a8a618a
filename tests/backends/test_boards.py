"""Boards on every backend: the newest version, whole, wherever it was written and is read."""

import functools
import os
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from qfleet.backends.boards import as_bytes
from qfleet.errors import FleetError
from qfleet.fleet import Board, Fleet, Handle
from tests.backends.members import FLEETS
from tests.backends.services import LARGE, SERVICE_BACKENDS, Worker


class Setting(NamedTuple):
    fleet: Fleet
    backend: str
    board: Board
    """Of the driver, the writer and the readers."""
    other: Board
    """Given to them as an argument."""
    writer: Handle
    readers: list[Handle]


@pytest.fixture(params=SERVICE_BACKENDS)
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    fleet = FLEETS[request.param]()
    board, other = fleet.board(LARGE), fleet.board(100)
    maker = functools.partial(Worker, board)
    handles = [fleet.start(name, maker) for name in ("the writer", "a reader", "another")]
    yield Setting(fleet, request.param, board, other, handles[0], handles[1:])
    fleet.close()


def _seen_soon(handle: Handle, newer_than: int, expected: tuple[int, int, int]) -> None:
    """On Ray news take a moment."""
    deadline, found = time.monotonic() + 10, None
    while found != expected and time.monotonic() < deadline:
        found = handle.call("read", newer_than).result(20)
    assert found == expected


def _version_soon(board: Board, version: int) -> NDArray[np.uint8]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = board.read(-1)
        if found is not None and found[0] == version:
            return found[1]
    raise AssertionError(f"version {version} has not come")


def test_the_newest_version_is_read_in_every_service_and_only_if_it_is_newer(setting: Setting) -> None:
    board, reader = setting.board, setting.readers[0]
    assert board.read(-1) is None and reader.call("read", -1).result(20) is None
    board.write(1, np.full(LARGE // 4, 1.0, np.float32))
    first = _version_soon(board, 1).view(np.float32)
    assert len(first) == LARGE // 4 and (first == 1.0).all()
    setting.writer.call("publish", board, 2, 9, 1000).result(20)
    _seen_soon(reader, 8, (9, 1000, 9))
    assert _version_soon(board, 9).size == 1000
    assert reader.call("read", 9).result(20) is None and board.read(9) is None
    assert (first == 1.0).all(), "what was read once does not change"
    board.write(
        4, np.full(10, 4, np.uint8)
    )  # who resumes from a checkpoint begins with an older version again
    for one in setting.readers:
        _seen_soon(one, 3, (4, 10, 4))
    assert reader.call("read", 4).result(20) is None


def test_one_who_has_not_looked_for_long_sees_the_newest_and_not_the_first_it_missed(
    setting: Setting,
) -> None:
    setting.writer.call("publish", setting.board, 1, 1, 100).result(20)
    _seen_soon(setting.readers[0], 0, (1, 100, 1))
    for version in range(2, 8):
        setting.writer.call("publish", setting.board, version, version, 100).result(20)
        time.sleep(0.05)
    time.sleep(0.5)
    assert setting.readers[0].call("read", 1).result(20) == (7, 100, 7)
    assert _version_soon(setting.board, 7).size == 100


def test_a_board_may_be_an_argument_and_refuses_what_does_not_fit(setting: Setting) -> None:
    setting.writer.call("publish", setting.other, 1, 3, 100).result(20)
    assert (_version_soon(setting.other, 3) == 3).all()
    with pytest.raises(FleetError, match=r"a board of 100 bytes takes .* got 104 bytes"):
        setting.other.write(4, np.zeros(13))
    with pytest.raises(FleetError, match="a board of 100 bytes takes a C-contiguous array"):
        setting.other.write(4, np.zeros((4, 4), np.uint8)[:, :2])
    assert setting.other.read(3) is None


def test_reads_beside_a_fast_writer_are_whole_and_go_forward(setting: Setting) -> None:
    seconds = 1.5
    written = setting.writer.call("publish_for", seconds, LARGE)
    reading = [reader.call("read_until", 1 << 60, seconds + 0.5) for reader in setting.readers]
    last = written.result(30)
    assert last > 3
    for future in reading:
        count, newest = future.result(30)
        assert count > 0 and newest <= last
    for reader in setting.readers:
        _seen_soon(reader, last - 1, (last, LARGE, last % 251))


def test_a_writer_that_is_killed_leaves_no_torn_version_and_is_followed_by_another(setting: Setting) -> None:
    recovery = setting.fleet.recovery
    if recovery is None:
        pytest.skip("threads cannot be ended")
    setting.writer.call("publish", setting.board, 1, 5, LARGE).result(20)
    process_id = setting.writer.call("process_id").result(20)
    writing = setting.writer.call("publish_for", 20.0, LARGE)
    time.sleep(0.3)
    os.kill(process_id, signal.SIGKILL)
    with pytest.raises(FleetError, match="the writer"):
        writing.result(20)
    found = setting.readers[0].call("read", 0).result(20)
    assert found is not None or setting.backend == "ray"
    assert found is None or found[1:] == (LARGE, found[0] % 251)
    recovery.end([setting.writer])
    writer = setting.fleet.start("the writer", functools.partial(Worker, setting.board))
    writer.call("publish", setting.board, 10**6, 10**6 + 5, LARGE).result(20)
    version = 10**6 + 5
    for one in setting.readers:
        _seen_soon(one, 10**6, (version, LARGE, version % 251))


def test_versions_that_are_no_longer_the_newest_are_freed(setting: Setting) -> None:
    """Ray's store has 128 MB here, and a thousand versions would take a thousand."""
    setting.writer.call("publish", setting.board, 1, 1000, LARGE).result(60)
    _seen_soon(setting.readers[0], 0, (1000, LARGE, 1000 % 251))


def test_a_board_made_too_late_is_refused_on_processes() -> None:
    fleet = FLEETS["processes"]()
    writer = fleet.start("the writer", Worker)
    late = fleet.board(100)
    with pytest.raises(FleetError, match="a board must be made before the services that use it"):
        writer.call("publish", late, 1, 1, 10).result(20)
    assert fleet.start("a later one", Worker).call("publish", late, 1, 1, 10).result(20) == 1
    assert late.read(0) is not None
    fleet.close()


def test_arrays_are_taken_as_their_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert as_bytes(array, 24).tobytes() == array.tobytes() and as_bytes(array, 24).shape == (24,)
    assert as_bytes(np.empty((0, 3)), 0).size == 0
