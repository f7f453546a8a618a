"""What a run has learned, to be compared bit for bit."""

import qfleet


def table_bytes(run: qfleet.Run) -> list[bytes]:
    """Of the table, or of each of its shards."""
    state = run.values_state
    arrays = state["shards"].values() if "shards" in state else [state["values"]]
    return [array.tobytes() for array in arrays]
