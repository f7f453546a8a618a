"""The groups that the conformance tests of a file share, one for each backend and size."""

from collections.abc import Iterator

import pytest

from tests.backends.members import BACKENDS, SIZES, Members


@pytest.fixture(scope="module", params=[(backend, size) for backend in BACKENDS for size in SIZES], ids=str)
def members(request: pytest.FixtureRequest) -> Iterator[Members]:
    group = Members(*request.param)
    yield group
    group.fleet.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param
