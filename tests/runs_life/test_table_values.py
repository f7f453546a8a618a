"""What a table's run becomes: rows wherever they lie, an agent, and files that other programs read."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qfleet.agent import make_table_agent
from qfleet.assembly import Problem
from qfleet.errors import QfleetError
from qfleet.experiment import make_settings
from qfleet.run import Run
from qfleet.runs.folder import RunFolder
from qfleet.states.config import StatesConfig
from qfleet.table_values import TableValues, greedy_actions

VALUES = np.random.default_rng(3).normal(size=(16, 4))
ODD_STATES_APART = {
    "shards": {"0": VALUES[::2], "1": VALUES[1::2]},
    "bounds": [0, 8, 16],
    "positions": np.arange(16, dtype=np.int32) // 2 + np.arange(16, dtype=np.int32) % 2 * 8,
    "kept_apart": True,
}


def run_of(name: str, state: dict[str, Any], folder: Path) -> Run:
    """A run as it is after training, with these values."""
    problem = Problem(make_settings(name, None, {}), name)
    return Run(problem, RunFolder(folder), state, {})


def test_rows_are_the_same_wherever_they_lie() -> None:
    whole, shards = TableValues.from_state({"values": VALUES}), TableValues.from_state(ODD_STATES_APART)
    assert whole.num_states == shards.num_states == 16 and whole.num_actions == shards.num_actions == 4
    for state in range(16):
        np.testing.assert_array_equal(whole.row(state), shards.row(state))
    assert whole.merged() is VALUES
    with pytest.raises(QfleetError, match="2 shards"):
        shards.merged()
    apart = TableValues.from_state({**ODD_STATES_APART, "kept_apart": False})
    np.testing.assert_array_equal(apart.merged(), VALUES)
    for table in (whole, shards):
        for state in (-1, 16):
            with pytest.raises(QfleetError, match=f"state {state} is none of the table's 16"):
                table.row(state)


def test_the_first_of_equals_is_greedy_and_never_one_that_is_not_allowed() -> None:
    values = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert greedy_actions(values).tolist() == [0, 1]
    allowed = np.array([[False, True, True], [True, False, True]])
    assert greedy_actions(values, allowed).tolist() == [1, 2]


@pytest.mark.parametrize("state", [{"values": VALUES}, ODD_STATES_APART])
def test_an_agent_looks_its_state_up(state: dict[str, Any]) -> None:
    agent = make_table_agent("FrozenLake-v1", StatesConfig(), state)
    for number in range(16):
        np.testing.assert_array_equal(agent.q_values(np.int64(number)), VALUES[number])
        assert agent.act(number) == VALUES[number].argmax()
    best = agent.act(5)
    mask = np.arange(4) != best
    assert agent.act(5, mask) == np.where(mask, VALUES[5], -np.inf).argmax() != best
    agent.q_values(3)[:] = 99  # a copy: the table is as before
    np.testing.assert_array_equal(agent.q_values(3), VALUES[3])
    for nonsense in (1.5, "3", [1, 2]):
        with pytest.raises(QfleetError, match="one whole number"):
            agent.act(nonsense)


def test_an_agent_takes_no_action_that_its_world_forbids(tmp_path: Path) -> None:
    """With i units in store of 5, at most 5 - i can be ordered."""
    values = np.tile(np.arange(6.0), (6, 1))
    run = run_of("Inventory-5", {"values": values}, tmp_path)
    assert [run.agent().act(state) for state in range(6)] == [5, 4, 3, 2, 1, 0]
    run.export(tmp_path / "out.npz")
    written = np.load(tmp_path / "out.npz")
    assert written["policy"].tolist() == [5, 4, 3, 2, 1, 0]
    assert (np.isnan(written["values"]) == (np.add.outer(np.arange(6), np.arange(6)) > 5)).all()


@pytest.mark.parametrize("state", [{"values": VALUES}, ODD_STATES_APART])
def test_a_csv_has_every_digit(state: dict[str, Any], tmp_path: Path) -> None:
    run_of("FrozenLake-v1", state, tmp_path).export(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = {int(row["state"]): row for row in csv.DictReader(file)}
    assert len(rows) == 16
    for number, row in rows.items():
        assert [float(row[f"action_{action}"]) for action in range(4)] == VALUES[number].tolist()
        assert int(row["greedy_action"]) == VALUES[number].argmax()
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    run = run_of("FrozenLake-v1", {"values": VALUES}, tmp_path)
    assert run.values is VALUES
    with pytest.raises(QfleetError, match=r"should end in \.csv or \.npz"):
        run.export(tmp_path / "out.txt")
    with pytest.raises(QfleetError, match="there is no folder"):
        run.export(tmp_path / "nowhere" / "out.csv")
    with pytest.raises(QfleetError, match="left in its 2 shards"):
        run_of("FrozenLake-v1", ODD_STATES_APART, tmp_path).export(tmp_path / "out.npz")
    with pytest.raises(QfleetError, match="learned a network"):
        run_of("CartPole-v1", {}, tmp_path).export(tmp_path / "out.csv")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(QfleetError, match="cannot be written"):
        run.export(tmp_path / "taken.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.csv"]
