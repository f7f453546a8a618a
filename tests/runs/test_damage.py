"""Any single bit that flips is found, and the checkpoint before is used."""

import random
from pathlib import Path

import pytest
from example_state import assert_is_step, files_below, state

from qfleet.errors import DamagedError
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.manifest import read_manifest

SEED = 20


def flip_bits(folder: Path, num_flips: int) -> None:
    writer = CheckpointStore(folder, segment_bytes=32 * 26)
    for step in (10, 20):
        writer.save(step, state(step))
    files = [path for path in files_below(folder) if "000000000010" not in path.parts]
    shared = {segment.file_name for segment in segments_of(folder / "000000000010")}
    generator = random.Random(SEED)
    for number in range(num_flips):
        path = files[number % len(files)]
        flip_one(folder, path, generator, path.name in shared)


def segments_of(checkpoint: Path) -> list:
    return [segment for entry in read_manifest(checkpoint).streams.values() for segment in entry.segments]


def flip_one(folder: Path, path: Path, generator: random.Random, is_shared: bool) -> None:
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[generator.randrange(len(sound))] ^= 1 << generator.randrange(8)
    path.write_bytes(damaged)
    lines: list[str] = []
    store = CheckpointStore(folder, report=lines.append, segment_bytes=32 * 26)
    if is_shared:
        with pytest.raises(DamagedError, match="no sound checkpoint"):
            store.load_newest()
    else:
        assert_is_step(store.load_newest(), 10)
    assert len(lines) == (2 if is_shared else 1)
    assert all(path.name in line and "\n" not in line for line in lines)
    path.write_bytes(sound)


def test_bit_flips_are_found(tmp_path: Path) -> None:
    flip_bits(tmp_path, 150)


@pytest.mark.soak
def test_a_thousand_bit_flips_are_found(tmp_path: Path) -> None:
    flip_bits(tmp_path, 1000)


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(10, {"step": 10})
    path = tmp_path / "000000000010" / "manifest.json"
    sound = path.read_bytes()
    for bit in range(0, 8 * len(sound)):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            read_manifest(path.parent)


@pytest.mark.parametrize("keep_bytes", [0, 1, 100])
@pytest.mark.parametrize(
    "name", ["arrays.safetensors", "state.json", "manifest.json", "tail-replay+rows.safetensors"]
)
def test_truncated_and_missing_files_are_found(tmp_path: Path, name: str, keep_bytes: int) -> None:
    store = CheckpointStore(tmp_path)
    for step in (10, 20):
        store.save(step, state(step))
    path = tmp_path / "000000000020" / name
    path.write_bytes(path.read_bytes()[:keep_bytes])
    assert_is_step(CheckpointStore(tmp_path).load_newest(), 10)
    path.unlink()
    assert_is_step(CheckpointStore(tmp_path).load_newest(), 10)
    with pytest.raises(DamagedError, match=name.replace("+", r"\+")):
        CheckpointStore(tmp_path).load(20)


def test_a_checkpoint_under_another_steps_name_is_refused(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(10, state(10))
    (tmp_path / "000000000010").rename(tmp_path / "000000000099")
    with pytest.raises(DamagedError, match="its manifest says step 10"):
        CheckpointStore(tmp_path).load_newest()


def test_a_segment_altered_after_loading_is_found_when_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, segment_bytes=32 * 26)
    store.save(10, state(10))
    loaded = store.load(10)["replay"]["rows"]
    path = files_below(tmp_path / "streams")[0]
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DamagedError, match="SHA-256"):
        list(loaded.read_segments())
