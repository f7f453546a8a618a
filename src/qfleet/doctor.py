"""What this machine offers a run, checked one thing at a time."""

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qfleet.backends.budget import num_cores
from qfleet.memory import available_memory_bytes, readable_bytes

OK, MISSING = "ok", "missing"
_LEAST_PYTHON = (3, 11)
_PACKAGES = ("numpy", "numba", "scipy", "torch", "gymnasium", "safetensors", "tyro", "rich", "tensorboard")
_EXTRAS = {
    "atari": ("ale_py",),
    "envpool": ("envpool",),
    "box2d": ("Box2D",),
    "minatar": ("minatar",),
    "keras": ("keras",),
    "mpi": ("mpi4py",),
    "ray": ("ray",),
    "play": ("imageio", "imageio_ffmpeg", "pygame"),
}
_COMPILERS = ("cc", "gcc", "clang")
_LITTLE_BYTES = 2**26


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    state: str
    """OK or MISSING."""
    text: str
    needed: bool = False
    """Whether nothing works without it."""


def checks() -> Iterator[Check]:
    """Every check, from what everything needs to what little needs."""
    python_state = OK if sys.version_info >= _LEAST_PYTHON else MISSING
    yield Check("Python", python_state, f"{platform.python_version()} on {platform.platform()}", needed=True)
    yield from (_package(name) for name in _PACKAGES)
    yield from (_extra(name, modules) for name, modules in _EXTRAS.items())
    yield _cores()
    yield from _blas()
    yield _cuda()
    yield Check("memory", OK, f"{readable_bytes(available_memory_bytes())} available")
    yield _shared_memory()
    yield _kernel_cache()
    yield _compiler()


def _package(name: str) -> Check:
    try:
        return Check(name, OK, version(name), needed=True)
    except PackageNotFoundError:
        return Check(name, MISSING, f"install it again: pip install {name}", needed=True)


def _extra(name: str, modules: tuple[str, ...]) -> Check:
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if not absent:
        return Check(f"extra {name}", OK, ", ".join(modules))
    return Check(f"extra {name}", MISSING, f'pip install "qfleet[{name}]" (optional)')


def _cores() -> Check:
    limits = {
        name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    given = ", ".join(f"{name}={value}" for name, value in limits.items() if value)
    return Check(
        "cores", OK, f"{num_cores()} of {os.cpu_count()} may be used" + (f"; {given}" if given else "")
    )


def _blas() -> Iterator[Check]:
    # NumPy's and SciPy's are loaded by their linear algebra.
    import numpy.linalg  # noqa: F401
    import scipy.linalg.blas  # noqa: F401
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not pools:
        yield Check("BLAS", MISSING, "none that can be recognised; compiled kernels may be slow")
    for pool in pools:
        architecture = pool.get("architecture") or "unknown"
        text = f"{pool['internal_api']} {pool['version']} for {architecture}, {pool['num_threads']} threads"
        yield Check("BLAS", OK, text)


def _cuda() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("CUDA", MISSING, "PyTorch is not installed")
    import torch

    if not torch.cuda.is_available():
        return Check("CUDA", MISSING, "PyTorch finds no device; networks run on the CPU (optional)")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("CUDA", OK, f"{torch.version.cuda}: {', '.join(names)}")


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", MISSING, "no /dev/shm; the engine processes cannot run")
    free = shutil.disk_usage(folder).free
    state = OK if free >= _LITTLE_BYTES and os.access(folder, os.W_OK) else MISSING
    hint = "" if state == OK else "; in Docker, --shm-size 1g gives more"
    return Check("shared memory", state, f"{readable_bytes(free)} free in /dev/shm{hint}")


def _kernel_cache() -> Check:
    from qfleet.kernel_cache import cache_folder

    folder = cache_folder()
    if folder.is_relative_to(tempfile.gettempdir()) or not os.access(folder, os.W_OK):
        return Check(
            "kernel cache",
            MISSING,
            f"{folder} does not last: every start compiles; set XDG_CACHE_HOME (optional)",
        )
    return Check("kernel cache", OK, str(folder))


def _compiler() -> Check:
    found = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        return Check(
            "compiler", MISSING, "only torch.compile would use one; everything works without (optional)"
        )
    return Check("compiler", OK, found)
