"""Round trips, retention, and what a save writes."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from example_state import (
    CAPACITY,
    ROWS_PER_STEP,
    SEGMENT_BYTES,
    assert_equal,
    assert_is_step,
    files_below,
    rows,
    state,
    stream,
)

from qfleet.errors import DamagedError, QfleetError
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.streams import Stream


def make_store(folder: Path, keep: int = 3, lines: list[str] | None = None) -> CheckpointStore:
    report = (lambda line: None) if lines is None else lines.append
    return CheckpointStore(folder, keep, report, segment_bytes=SEGMENT_BYTES)


def step_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("streams", "best"))


@pytest.mark.parametrize("step", [0, 1, 4, 5, 20, 50, 51])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, step: int) -> None:
    make_store(tmp_path).save(step, state(step))
    assert_is_step(make_store(tmp_path).load_newest(), step)
    assert_equal(make_store(tmp_path).load(step), state(step))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (4, 5)])
def test_every_dtype_and_shape_comes_back(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, size=shape).astype(dtype)
    make_store(tmp_path).save(1, {"array": array})
    assert_equal(make_store(tmp_path).load(1), {"array": array})


def test_strided_and_transposed_arrays_come_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint64).reshape(4, 6) + np.uint64(2**64 - 24)
    saved = {"strided": array[::2, 1::3], "transposed": array.T, "reversed": array[::-1]}
    make_store(tmp_path).save(1, saved)
    loaded = make_store(tmp_path).load(1)
    assert_equal(loaded, saved)
    loaded["strided"] += np.uint64(1)  # what is loaded may be trained on


def test_what_cannot_be_stored_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(TypeError, match="'a/b' of a state: dtype object"):
        store.save(1, {"a": {"b": np.array([None])}})
    with pytest.raises(TypeError, match="leaf 'a' of a state is a set"):
        store.save(1, {"a": {1}})
    with pytest.raises(ValueError, match=r"key '\$array' of a state"):
        store.save(1, {"$array": 1})
    assert store.load_newest() is None


def test_no_checkpoint_yet_and_no_such_step(tmp_path: Path) -> None:
    store = make_store(tmp_path / "none")
    assert store.load_newest() is None and store.load_best() is None and store.steps() == []
    make_store(tmp_path).save(3, {})
    with pytest.raises(QfleetError, match=r"no checkpoint of step 4 in .*; there are: 3"):
        make_store(tmp_path).load(4)


def test_the_newest_are_kept_and_their_segments_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=2)
    for step in range(0, 200, 9):
        store.save(step, state(step))
    assert store.steps() == [189, 198]
    assert step_folders(tmp_path) == ["000000000189", "000000000198"]
    firsts = [int(path.name[:12]) for path in files_below(tmp_path / "streams")]
    oldest_row_alive = 189 * ROWS_PER_STEP - CAPACITY
    assert firsts == list(range(oldest_row_alive // 32 * 32, 198 * ROWS_PER_STEP // 32 * 32, 32))
    assert_equal(make_store(tmp_path).load(189), state(189))
    assert_is_step(make_store(tmp_path).load_newest(), 198)


def test_a_step_that_exists_is_replaced_and_later_ones_are_left(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for step in (10, 20, 30):
        store.save(step, {"step": step})
    store.save(20, {"step": -1})
    assert store.steps() == [10, 20]
    assert store.load(20) == {"step": -1}


def test_a_replacement_cut_short_leaves_what_was_there(tmp_path: Path) -> None:
    make_store(tmp_path).save(20, state(20))
    (tmp_path / "000000000020").rename(tmp_path / "000000000020.replaced")
    store = make_store(tmp_path)
    assert_is_step(store.load_newest(), 20)
    store.save(20, state(20))
    assert step_folders(tmp_path) == ["000000000020"]
    assert_is_step(make_store(tmp_path).load_newest(), 20)


def test_rows_of_a_lost_future_are_not_taken_for_ours(tmp_path: Path) -> None:
    """Resumed from 20, the run goes another way: its rows 140... differ from those that 40 had."""
    store = make_store(tmp_path)
    for step in (20, 40):
        store.save(step, state(step))
    resumed = make_store(tmp_path)
    resumed.load(20)
    last = 20 * ROWS_PER_STEP

    def other_rows(first: int, end: int) -> dict[str, np.ndarray]:
        read = rows(first, end)
        read["reward"] = np.where(np.arange(first, end) < last, read["reward"], -1.0)
        return read

    resumed.write_full_segments({"replay/rows": Stream(0, 300, other_rows)})
    resumed.close()
    assert_is_step(make_store(tmp_path).load_newest(), 40)  # sound until the run has gone on
    resumed.save(30, {"replay": {"rows": Stream(0, 300, other_rows)}})
    loaded = make_store(tmp_path).load_newest()
    assert loaded is not None and loaded[0] == 30
    rewards = np.concatenate([part["reward"] for _, part in loaded[1]["replay"]["rows"].read_segments()])
    np.testing.assert_array_equal(rewards, other_rows(0, 300)["reward"])


def test_after_the_segments_are_written_a_save_writes_the_tail_alone(tmp_path: Path) -> None:
    """A replay of 4,000 rows of 26 bytes stands for one of a million frames."""
    store = make_store(tmp_path)
    capacity = 4000
    for num_rows in range(0, 6001, 60):
        store.write_full_segments({"replay/rows": stream(num_rows, capacity)})
        store.close()
    before = {path: path.stat().st_mtime_ns for path in files_below(tmp_path)}
    saved = {"replay": {"rows": stream(6005, capacity)}}
    store.save(1, saved)
    written = [path for path in files_below(tmp_path) if path not in before]
    arrays = [path for path in written if path.suffix == ".safetensors"]
    assert sorted(path.name for path in arrays) == ["arrays.safetensors", "tail-replay+rows.safetensors"]
    assert sum(path.stat().st_size for path in arrays) < 32 * 26 + 1000
    assert all(path.stat().st_mtime_ns == before[path] for path in files_below(tmp_path) if path in before)
    assert_equal(make_store(tmp_path).load(1), saved)


def test_rows_the_ring_dropped_before_they_were_written_are_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    saved = {"rows": stream(1000, capacity=100)}
    store.save(1, saved)
    ranges = [path.name[:25] for path in files_below(tmp_path / "streams")]
    assert ranges == ["000000000900-000000000928", "000000000928-000000000960", "000000000960-000000000992"]
    assert_equal(make_store(tmp_path).load(1), saved)


def test_segments_written_ahead_survive_other_saves(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write_full_segments({"replay/rows": stream(70)})
    store.save_best(1, {"values": np.zeros(3)})
    assert len(files_below(tmp_path / "streams")) == 2
    store.save(2, {"replay": {"rows": stream(75)}})
    assert_equal(make_store(tmp_path).load(2), {"replay": {"rows": stream(75)}})


def test_a_failed_background_write_is_reported_and_made_good(tmp_path: Path) -> None:
    lines: list[str] = []
    store = make_store(tmp_path, lines=lines)
    (tmp_path / "streams").write_text("in the way")
    store.write_full_segments({"replay/rows": stream(70)})
    with pytest.raises(QfleetError, match="checkpoint 10 could not be written"):
        store.save(10, state(10))
    assert len(lines) == 1 and "could not be written in the background" in lines[0]
    (tmp_path / "streams").unlink()
    store.save(10, state(10))
    assert_is_step(make_store(tmp_path).load_newest(), 10)


def test_rows_cannot_be_taken_back(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(1, {"rows": stream(100)})
    with pytest.raises(ValueError, match="rows up to 96 are stored, the stream ends at 50"):
        store.save(2, {"rows": stream(50)})


def test_the_best_is_kept_apart(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=1)
    for step in (10, 20):
        store.save(step, state(step))
        store.save_best(step, state(step))
    for step in (30, 40):
        store.save(step, state(step))
    assert step_folders(tmp_path / "best") == ["000000000020"]
    assert_is_step(make_store(tmp_path).load_best(), 20)
    assert_is_step(make_store(tmp_path).load_newest(), 40)
    store.save_best(20, {"again": 1})
    assert make_store(tmp_path).load_best() == (20, {"again": 1})


def test_a_reader_changes_nothing_and_a_writer_clears_what_was_left(tmp_path: Path) -> None:
    make_store(tmp_path).save(10, state(10))
    left = tmp_path / ".000000000020.partial"
    left.mkdir()
    (left / "state.json").write_text("{")
    (tmp_path / "streams" / "replay" / "rows" / ".000000000096.partial").write_bytes(b"half")
    before = files_below(tmp_path)
    store = make_store(tmp_path)
    assert_is_step(store.load_newest(), 10)
    assert files_below(tmp_path) == before
    store.save(20, state(20))
    assert not list(tmp_path.rglob("*.partial"))
    assert_is_step(make_store(tmp_path).load_newest(), 20)


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
def test_a_pickle_under_a_checkpoints_name_is_refused(tmp_path: Path, name: str) -> None:
    make_store(tmp_path).save(10, state(10))
    make_store(tmp_path).save(20, state(20))
    (tmp_path / "000000000020" / name).write_bytes(pickle.dumps(Bomb()))
    lines: list[str] = []
    assert_is_step(make_store(tmp_path, lines=lines).load_newest(), 10)
    assert len(lines) == 1 and name in lines[0] and "\n" not in lines[0]


def test_a_pickle_with_a_matching_manifest_is_refused_too(tmp_path: Path) -> None:
    from qfleet.runs.durable import write_bytes
    from qfleet.runs.manifest import Manifest

    checkpoint = tmp_path / "000000000020"
    checkpoint.mkdir()
    arrays = write_bytes(checkpoint / "arrays.safetensors", pickle.dumps(Bomb()))
    tree = write_bytes(checkpoint / "state.json", json.dumps({}).encode())
    manifest = Manifest(20, {"arrays.safetensors": arrays, "state.json": tree}, {})
    write_bytes(checkpoint / "manifest.json", manifest.to_bytes())
    with pytest.raises(DamagedError, match="not a safetensors file"):
        make_store(tmp_path).load_newest()


def test_a_file_under_a_checkpoints_name_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path).save(10, state(10))
    (tmp_path / "000000000020").write_bytes(pickle.dumps(Bomb()))
    assert_is_step(make_store(tmp_path).load_newest(), 10)
    make_store(tmp_path).save(20, state(20))
    assert_is_step(make_store(tmp_path).load_newest(), 20)


class Bomb:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a file was unpickled",))
