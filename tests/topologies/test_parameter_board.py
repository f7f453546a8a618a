"""Parameters on a board: vector, buffers of any type, versions; from one process to another."""

from collections.abc import Iterator

import numpy as np
import pytest

from qfleet.backends.processes import ProcessFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.parameters import Parameters
from qfleet.fleet import Fleet
from qfleet.topologies.parameter_board import ParameterBoard, num_bytes

FLEETS = {"threads": ThreadFleet, "processes": ProcessFleet}


def parameters(version: int) -> Parameters:
    buffers = {
        "count": np.array(version + 7, np.int64),
        "flags": np.array([True, False, True]),
        "mean": np.arange(6, dtype=np.float64).reshape(2, 3) * version,
    }
    return Parameters(version, np.full(5, version, np.float32), buffers)


@pytest.fixture(params=FLEETS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    made = FLEETS[request.param]()
    yield made
    made.close()


class Reader:
    def __init__(self, board: ParameterBoard) -> None:
        self._board = board

    def newest(self, newer_than: int) -> Parameters | None:
        return self._board.newest(newer_than)

    def can_be_written_to(self) -> list[bool]:
        found = self._board.newest(-1)
        assert found is not None
        return [array.flags.writeable for array in (found.vector, *found.buffers.values())]


def test_what_is_published_is_read_by_a_service(fleet: Fleet) -> None:
    board = ParameterBoard(fleet, parameters(0))
    reader = fleet.start("reader", lambda: Reader(board))
    assert reader.call("newest", -1).result(60) is None
    for version in (3, 8):
        board.publish(parameters(version))
        found, expected = reader.call("newest", version - 1).result(20), parameters(version)
        assert found.version == version and found.vector.tolist() == expected.vector.tolist()
        assert set(found.buffers) == set(expected.buffers)
        for name, buffer in expected.buffers.items():
            assert found.buffers[name].dtype == buffer.dtype and found.buffers[name].shape == buffer.shape
            assert np.array_equal(found.buffers[name], buffer), name
    assert reader.call("newest", 8).result(20) is None
    assert reader.call("can_be_written_to").result(20) == [True] * 4


def test_only_the_newest_is_kept_and_what_was_read_stays() -> None:
    board = ParameterBoard(ThreadFleet(), parameters(0))
    board.publish(parameters(1))
    old = board.newest(-1)
    board.publish(parameters(2))
    assert old is not None and old.vector.tolist() == [1.0] * 5 and old.buffers["count"] == 8
    new = board.newest(-1)
    assert new is not None and new.version == 2


def test_bytes_are_those_of_all_arrays() -> None:
    assert num_bytes(parameters(1)) == 5 * 4 + 8 + 3 + 6 * 8
