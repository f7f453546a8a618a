"""Goes on from the newest checkpoint, saving for ever: the victim of test_kill.py."""

import sys
from pathlib import Path

from example_state import SEGMENT_BYTES, assert_is_step, state

from qfleet.runs.checkpoints import CheckpointStore


def save_for_ever(folder: Path) -> None:
    store = CheckpointStore(folder, keep=2, segment_bytes=SEGMENT_BYTES)
    loaded = store.load_newest()
    step = loaded[0] if loaded else 0
    if loaded:
        assert_is_step(loaded, step)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        step += 1
        saved = state(step)
        store.write_full_segments({"replay/rows": saved["replay"]["rows"]})
        store.save(step, saved)
        if step % 3 == 0:
            store.save(step, saved)
        if step % 4 == 0:
            store.save_best(step, saved)


if __name__ == "__main__":
    save_for_ever(Path(sys.argv[1]))
