"""The Ray cluster that services run on: one of this machine, made for the run, or one that is running."""

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from qfleet.backends.budget import num_cores
from qfleet.backends.futures import one_line
from qfleet.errors import FleetError, QfleetError

AUTO = "auto"
_PROBE_SECONDS = 3.0
_HELLO_OF_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""Its preface and an empty SETTINGS frame, which a gRPC server answers with SETTINGS."""
_SETTINGS = 4


def import_ray() -> Any:
    """The package; QfleetError if it is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise QfleetError('--backend ray needs Ray: pip install "qfleet[ray]" installs it') from None
    return ray


@final
class RayCluster:
    """A connection to a cluster; a program that has called `ray.init` itself keeps its own."""

    def __init__(self, address: str, num_workers: int) -> None:
        """`address`: HOST:PORT, auto, or nothing for a new cluster of this machine with room for `num_workers`."""
        self._ray, self.address = import_ray(), address
        self._is_ours = not self._ray.is_initialized()
        self.is_local = self._is_ours and not address
        """Whether it is this machine alone, made for the run."""
        if self.is_local:
            self._start(max(num_workers, num_cores()))
        elif self._is_ours:
            self._join(check_address(address))

    def _start(self, num_cpus: int) -> None:
        self._init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=0,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
        )

    def _join(self, address: str) -> None:
        """Raises FleetError where Ray cannot join it, as it is of another version."""
        try:
            self._init(address=address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise FleetError(
                f"--address {self.address}: {one_line(error)}. It has to be of the same version of Ray; if it asks for "
                "a token, RAY_AUTH_MODE=token and the file ~/.ray/auth_token are needed here too"
            ) from error

    def _init(self, **options: Any) -> None:
        from ray._private import worker

        worker._worker_logs_enabled = (
            False  # else it prints a paragraph on each dead worker, whom errors name
        )
        with _quietly():
            self._ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)

    def close(self) -> None:
        """Leaves the cluster; the one that was made for the run ends."""
        if self._is_ours and self._ray.is_initialized():
            with _quietly():
                self._ray.shutdown()
        self._is_ours = False


@contextmanager
def _quietly() -> Iterator[None]:
    """Ray reports on usage, warns of its own future, and takes SIGTERM, which are the run's to handle.

    Ctrl-C reaches the whole terminal: the processes that Ray starts leave it to the run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGTERM, previous)


def check_address(address: str) -> str:
    """HOST:PORT, also of the cluster that `auto` stands for; FleetError, within seconds, if none answers there.

    Without an address it only looks whether Ray is installed.
    """
    import_ray()
    if not address:
        return ""
    found = _running_here() if address == AUTO else address
    host, _, port = found.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16 or "/" in host:
        raise FleetError(f"--address {address}: it takes HOST:PORT, such as 10.0.0.1:6379, or auto")
    if not _answers(host, int(port)):
        raise FleetError(
            f"--address {address}: no Ray cluster answers at {found}; ray start --head starts one, and without "
            "--address one of this machine is started"
        )
    return found


def _running_here() -> str:
    from ray._private import services

    try:
        with _quietly():
            found = services.canonicalize_bootstrap_address(AUTO)
    except ConnectionError:
        found = None
    if not found:
        raise FleetError(
            "--address auto: no Ray cluster runs on this machine; ray start --head starts one, and without "
            "--address one is started for the run"
        )
    return found


def _answers(host: str, port: int) -> bool:
    """Whether a gRPC server does; Ray itself would wait for most of a minute."""
    try:
        with socket.create_connection((host, port), _PROBE_SECONDS) as connection:
            connection.settimeout(_PROBE_SECONDS)
            connection.sendall(_HELLO_OF_HTTP2)
            frame = connection.recv(9, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(frame) == 9 and frame[3] == _SETTINGS
