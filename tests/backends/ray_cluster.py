"""A Ray cluster of two nodes on this machine, started when first asked for and kept: that takes ten seconds."""

import atexit
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
CPUS_A_NODE = 16
NODE: dict[str, Any] = {"num_cpus": CPUS_A_NODE, "object_store_memory": 2**27}


@functools.cache
def cluster() -> Any:
    """This process is connected to it."""
    import ray
    from ray._private import worker
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Workers are started when they are needed, not one a CPU in advance.
        quick = {"prestart_worker_first_driver": False}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**NODE, "include_dashboard": False, "_system_config": quick},
        )
        cluster.add_node(**NODE)
        worker._worker_logs_enabled = False
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)

    def stop() -> None:
        ray.shutdown()
        cluster.shutdown()

    atexit.register(stop)
    return cluster


def address() -> str:
    """HOST:PORT."""
    return str(cluster().address)


def processes_named(name: bytes) -> list[int]:
    """Those whose command holds it, of the clusters that this process has started."""
    return [number for number in _descendants(os.getpid()) if name in _command(number)]


def _descendants(process_id: int) -> Iterator[int]:
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        try:
            children = [int(text) for text in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _descendants(child)


def _command(process_id: int) -> bytes:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b""
