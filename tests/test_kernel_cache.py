"""Compiled kernels on disk: found again by whoever compiles the same, whatever others have put beside them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qfleet.kernel_cache import cache_folder

KERNEL = """
from qfleet.kernels import kernel

@kernel
def area(size):
    return size.width * size.height
"""
SIZES = """
from typing import NamedTuple

class Size(NamedTuple):
    width: int
    height: int
"""
USE = """
import sys
from area import area
from {module} import Size
print(area(Size(2, {height})), sum(area.stats.cache_hits.values()))
"""


def test_kernels_are_kept_where_the_user_says_and_elsewhere_if_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder.__wrapped__()
    assert folder.is_dir() and folder.parent == tmp_path / "qfleet" / "kernels"
    assert cache_folder.__wrapped__() == folder  # the same source, the same folder
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder.__wrapped__().name.startswith("qfleet-kernels-")


def use(tmp_path: Path, module: str, height: object = 3) -> tuple[float, int]:
    """(the kernel's result, how often it was found on disk), by an interpreter that has only that module's class."""
    folder = tmp_path / module
    folder.mkdir(exist_ok=True)
    (tmp_path / "area.py").write_text(KERNEL)
    (folder / f"{module}.py").write_text(SIZES)
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": f"{tmp_path}:{folder}",
    }
    program = USE.format(module=module, height=height)
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result, hits = done.stdout.split()
    return float(result), int(hits)


def test_a_class_that_others_do_not_have_spoils_nothing(tmp_path: Path) -> None:
    assert use(tmp_path, "mine") == (6, 0)
    assert use(tmp_path, "yours") == (6, 0)  # equal by name, but not to be had here
    assert use(tmp_path, "mine") == use(tmp_path, "yours") == (6, 1)
    assert use(tmp_path, "mine", 2.5) == (5, 0)
    assert use(tmp_path, "mine", 2.5) == (5, 1) and use(tmp_path, "mine") == (6, 1)


def test_what_cannot_be_read_is_compiled_anew(tmp_path: Path) -> None:
    use(tmp_path, "mine")
    (file,) = tmp_path.glob("cache/qfleet/kernels/*/*/area.*.nbc")
    file.write_bytes(file.read_bytes()[:100])
    assert use(tmp_path, "mine") == (6, 0) and use(tmp_path, "mine") == (6, 1)


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    use(tmp_path, "mine")
    (file,) = tmp_path.glob("cache/qfleet/kernels/*/*/area.*.nbc")
    file.unlink()
    file.mkdir()
    assert use(tmp_path, "mine") == (6, 0)


SLOW = "total = total * 1.01 + size\n    "
SLOW_KERNEL = f"""
from qfleet.kernels import kernel

@kernel
def slow(size):
    total = 0.0
    {SLOW * 400}return total

slow(1.0)
print(sum(slow.stats.cache_hits.values()))
"""


def test_of_several_processes_that_need_a_kernel_one_compiles_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SLOW_KERNEL)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "program.py")]
    several = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    found = [int(process.communicate(timeout=120)[0]) for process in several]
    assert sorted(found) == [0, 1, 1]
    assert not list((tmp_path / "cache").rglob("*.claim"))


def test_who_dies_while_compiling_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SLOW_KERNEL)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "program.py")]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").rglob("*.claim")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    first.kill()
    first.wait(10)
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert second.stdout == "0\n", second.stderr


FAILING = """
import sys
from qfleet.kernels import kernel

@kernel
def fails(size):
    return size.nothing

for _ in range(2):
    try:
        fails(1.0)
    except Exception as error:
        print(type(error).__name__, flush=True)
sys.stdin.read()
"""


def test_what_cannot_be_compiled_is_claimed_by_nobody_afterwards(tmp_path: Path) -> None:
    """Neither in the same process nor, while that one lives, in another."""
    (tmp_path / "program.py").write_text(FAILING)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "program.py")]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **piped) as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(2)] == ["TypingError\n"] * 2
        second = subprocess.run(
            command, input="", capture_output=True, text=True, env=environment, timeout=50
        )
        assert second.stdout == "TypingError\n" * 2
        first.communicate("", timeout=10)
