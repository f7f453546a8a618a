"""Threads of numerical libraries, where workers are other processes."""

from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import qfleet
from tests.runs_life.tiny import TINY


@pytest.mark.parametrize("algorithm", ["dqn", "reinforce"])
def test_the_drivers_libraries_leave_the_cores_to_worker_processes(algorithm: str, tmp_path: Path) -> None:
    own: dict[str, Any] = TINY if algorithm == "dqn" else {"algorithm": "reinforce"}
    settings: dict[str, Any] = own | {"topology": "parameter-server", "backend": "processes", "workers": 2}
    with threadpool_limits(limits=2, user_api="blas"):
        with qfleet.begin("CartPole-v1", out=tmp_path / "run", **settings):
            libraries = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        assert libraries and set(libraries) == {1}
