"""metrics.jsonl and TensorBoard's curves, resumed without doubling back."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qfleet.runs.metrics import MetricsWriter, read_metrics


def write_steps(folder: Path, first_step: int, steps: range, value: float) -> list[str]:
    lines: list[str] = []
    writer = MetricsWriter(folder, first_step, lines.append)
    for step in steps:
        writer.write(step, {"train/loss": value + step, "time/fps": 100})
    writer.close()
    return lines


def tensorboard_points(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_values_come_back(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    values = {
        "rollout/ep_rew_mean": np.float32(0.5),
        "train/loss": math.nan,
        "eval/mean_reward": math.inf,
        "n": 3,
    }
    writer.write(10, values)
    writer.close()
    writer.write(20, {"n": 4})
    (line,) = read_metrics(tmp_path)
    assert 0 <= line.pop("seconds") < 5
    assert line == {
        "step": 10, "rollout/ep_rew_mean": 0.5, "train/loss": None, "eval/mean_reward": None, "n": 3
    }  # fmt: skip
    assert tensorboard_points(tmp_path, "rollout/ep_rew_mean") == [(10, 0.5)]
    assert math.isnan(tensorboard_points(tmp_path, "train/loss")[0][1])


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    assert write_steps(tmp_path, 0, range(0, 100, 10), 0.0) == []
    path = tmp_path / "metrics.jsonl"
    lines = [
        json.loads(line) | {"seconds": 100.0 + index}
        for index, line in enumerate(path.read_text().splitlines())
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 35, "sec')
    assert write_steps(tmp_path, 40, range(50, 80, 10), 1000.0) == []
    expected = [(step, float(step)) for step in range(0, 50, 10)]
    expected += [(step, 1000.0 + step) for step in range(50, 80, 10)]
    found = read_metrics(tmp_path)
    assert [(line["step"], line["train/loss"]) for line in found] == expected
    assert [line["seconds"] >= 104.0 for line in found] == [False] * 4 + [True] * 4
    assert tensorboard_points(tmp_path, "train/loss") == expected


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    write_steps(tmp_path, 0, range(1, 4), 0.0)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: -cut - 1])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write_steps(tmp_path, 3, range(4, 6), 0.0)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 4, 5]


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_a_folder_that_is_gone_is_reported_once(tmp_path: Path) -> None:
    lines = write_steps(tmp_path / "gone", 0, range(5), 0.0)
    assert len(lines) == 1 and "metrics are no longer recorded" in lines[0]
