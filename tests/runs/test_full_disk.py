"""A disk that is really full: a tiny tmpfs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qfleet.errors import QfleetError
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.metrics import MetricsWriter, read_metrics
from qfleet.runs.streams import Stream


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs; see test_as_root_of_a_namespace")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_as_root_of_a_namespace(tmp_path: Path) -> None:
    """Who is not root runs this file again as the root of a user namespace."""
    if os.geteuid() == 0:
        pytest.skip("the other tests of this file have run as they are")
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True).returncode != 0
    ):
        pytest.skip("this machine allows no user namespace to mount a tmpfs in")
    pytest_again = [sys.executable, "-m", "pytest", __file__, "-q", "--basetemp", str(tmp_path / "again")]
    found = subprocess.run([*unshare, *pytest_again], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0 and "3 passed" in found.stdout, found.stdout


def large_state(num_bytes: int) -> dict:
    return {"values": np.arange(num_bytes, dtype=np.uint8)}


def test_a_full_disk_leaves_the_earlier_checkpoint(tiny_disk: Path) -> None:
    store = CheckpointStore(tiny_disk / "checkpoints")
    store.save(10, large_state(2**20))
    with pytest.raises(QfleetError) as raised:
        store.save(20, large_state(2**21))
    line = str(raised.value)
    assert (
        "\n" not in line and "needs 2.0 MiB" in line and "1.0 MiB are free" in line and "checkpoints" in line
    )
    assert [path.name for path in store.folder.iterdir()] == ["000000000010"]
    assert_sound(store, 10, 2**20)
    store.save(30, large_state(2**19))
    assert_sound(CheckpointStore(tiny_disk / "checkpoints"), 30, 2**19)


def test_a_full_disk_while_a_segment_is_written(tiny_disk: Path) -> None:
    lines: list[str] = []
    store = CheckpointStore(tiny_disk, report=lines.append, segment_bytes=2**20)
    store.save(10, large_state(2**10))
    rows = Stream(0, 40, lambda first, last: {"frame": np.ones((last - first, 2**16), np.uint8)})
    store.write_full_segments({"rows": rows})
    with pytest.raises(QfleetError, match="checkpoint 20 could not be written"):
        store.save(20, {"rows": rows})
    assert len(lines) == 1
    assert not list(tiny_disk.rglob("*.partial"))
    assert_sound(CheckpointStore(tiny_disk), 10, 2**10)


def test_metrics_on_a_full_disk_warn_once(tiny_disk: Path) -> None:
    lines: list[str] = []
    writer = MetricsWriter(tiny_disk, report=lines.append)
    writer.write(1, {"train/loss": 0.5})
    (tiny_disk / "filler").write_bytes(bytes(shutil.disk_usage(tiny_disk).free))
    for step in range(2, 400):
        writer.write(step, {"train/loss": 0.5})
    writer.close()
    assert len(lines) == 1 and "No space left on device" in lines[0]
    steps = [line["step"] for line in read_metrics(tiny_disk)]
    assert steps == list(range(1, len(steps) + 1))


def assert_sound(store: CheckpointStore, step: int, num_bytes: int) -> None:
    loaded = store.load_newest()
    assert loaded is not None and loaded[0] == step
    np.testing.assert_array_equal(loaded[1]["values"], large_state(num_bytes)["values"])
