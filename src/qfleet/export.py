"""A table's values and its greedy policy, as files that other programs read."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.sources import as_world, world_of
from qfleet.table_values import TableValues, greedy_actions
from qfleet.worlds.masks import allowed_actions

if TYPE_CHECKING:
    from qfleet.run import Run

_ROWS_AT_A_TIME = 2**16


def export(run: "Run", path: Path) -> None:
    """Writes the table and its greedy policy to `path`, whose name says how.

    .csv: one line a state: its number, each action's value (empty where the action is not allowed) and the best
    action. .npz: `values` (num_states, num_actions), NaN where not allowed, and `policy` (num_states,) int64.
    Raises QfleetError for another name, for a network's run and for a table left in its shards as .npz.
    """
    if run.problem.settings.kind != "table":
        raise QfleetError(
            f"{run.path} learned a network ({run.problem.settings.run.algorithm}); only tables can be exported"
        )
    writers = {".csv": _write_csv, ".npz": _write_npz}
    if path.suffix not in writers:
        raise QfleetError(f"--out {path}: the name should end in .csv or .npz")
    if not path.absolute().parent.is_dir():
        raise QfleetError(f"--out {path}: there is no folder {path.absolute().parent}")
    try:
        writers[path.suffix](run, path)
    except OSError as error:
        raise QfleetError(f"--out {path} cannot be written: {error.strerror or error}") from error


def _write_csv(run: "Run", path: Path) -> None:
    table = TableValues.from_state(run.values_state)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w") as file:
            names = [f"action_{action}" for action in range(table.num_actions)]
            file.write(",".join(["state", *names, "greedy_action"]) + "\n")
            for states, values in table.parts():
                for first in range(0, len(states), _ROWS_AT_A_TIME):
                    chunk = slice(first, first + _ROWS_AT_A_TIME)
                    file.write(_csv_lines(states[chunk], *_masked(run, states[chunk], values[chunk])))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _csv_lines(states: NDArray[np.int64], values: NDArray[np.floating], policy: NDArray[np.int64]) -> str:
    """As many digits as tell the numbers apart."""
    rows = zip(states.tolist(), values, policy.tolist(), strict=True)
    return "".join(
        f"{state},{','.join('' if np.isnan(value) else str(value) for value in row)},{action}\n"
        for state, row, action in rows
    )


def _write_npz(run: "Run", path: Path) -> None:
    values = TableValues.from_state(run.values_state).merged()
    masked, policy = _masked(run, np.arange(len(values)), values)
    partial = path.with_name(f".{path.stem}.partial.npz")
    try:
        np.savez_compressed(partial, values=masked, policy=policy)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _masked(
    run: "Run", states: NDArray[np.int64], values: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The values, NaN where an action is not allowed, and the best allowed actions."""
    found = world_of(run.problem.source, run.problem.settings.states)
    if found is None:
        return values, greedy_actions(values)
    allowed = allowed_actions(as_world(found), states)
    policy = greedy_actions(values, allowed)
    return (values if allowed is None else np.where(allowed, values, np.nan)), policy
