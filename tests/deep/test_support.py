"""The matrix of topologies and backends, as published, kept and refused."""

import pytest

from qfleet.choices import TOPOLOGY_CONFIGS
from qfleet.deep.support import BACKENDS, refuse_unsupported_backend
from qfleet.errors import QfleetError

ALL = ("threads", "processes", "ray", "mpi")


def test_every_topology_of_networks_is_in_it() -> None:
    assert set(BACKENDS) == set(TOPOLOGY_CONFIGS["deep"]) >= set(TOPOLOGY_CONFIGS["policy"])


@pytest.mark.parametrize("topology", BACKENDS)
@pytest.mark.parametrize("backend", ALL)
def test_what_is_not_in_it_is_refused_with_what_works(topology: str, backend: str) -> None:
    if backend in BACKENDS[topology]:
        refuse_unsupported_backend(topology, backend, tuple(BACKENDS))
        return
    with pytest.raises(QfleetError) as raised:
        refuse_unsupported_backend(topology, backend, tuple(BACKENDS))
    text = str(raised.value)
    assert f"--backend {backend}" in text and f"--topology {topology}" in text and "averaged" in text
