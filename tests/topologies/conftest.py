"""Groups of one to four, started when first asked for and kept: a process takes half a second to start."""

from collections.abc import Callable, Iterator

import pytest

from tests.backends.members import Members

MembersOf = Callable[[str, int], Members]


@pytest.fixture(scope="session")
def members_of() -> Iterator[MembersOf]:
    """members_of(backend, size) is a group."""
    groups: dict[tuple[str, int], Members] = {}

    def find(backend: str, size: int) -> Members:
        if (backend, size) not in groups:
            groups[backend, size] = Members(backend, size, timeout_seconds=250.0)
        return groups[backend, size]

    yield find
    for group in groups.values():
        group.fleet.close()
