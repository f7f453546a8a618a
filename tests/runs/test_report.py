"""The report is one well-formed page, whatever the runs recorded."""

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qfleet.errors import QfleetError
from qfleet.fleet_view import FleetView, Role
from qfleet.runs.curves import curve, group_seeds, mean_and_margin, read_run
from qfleet.runs.fleet_report import roles_of
from qfleet.runs.folder import RunFolder
from qfleet.runs.metrics import MetricsWriter
from qfleet.runs.report import write_report


def make_run(
    root: Path, num_points: int, seed: int = 0, topology: str = "serial", evaluation: float | None = None
) -> Path:
    folder = RunFolder.create("Cart<Pole>&-v1", "dqn", seed, root=root)
    config = {"algorithm": "dqn", "topology": topology, "seed": seed}
    folder.write_config({"environment": "Cart<Pole>&-v1", "run": config})
    writer = MetricsWriter(folder.path)
    for index in range(1, num_points + 1):
        shown = {"rollout/ep_rew_mean": float(index + seed), "train/loss": 1.0 / index}
        if evaluation is not None:
            shown["eval/mean_reward"] = evaluation
        writer.write(index * 500, shown)
    writer.close()
    evaluated = {"episodes": 100, "mean_return": 480.0 + seed, "std_return": 3.5}
    folder.write_summary(
        {
            "environment": "Cart<Pole>&-v1",
            **config,
            "steps": num_points * 500,
            "seconds": 9.0,
            "evaluation": evaluated,
        }
    )
    return folder.path


def page_of(runs: list[Path], path: Path) -> ElementTree.Element:
    write_report(runs, path)
    text = path.read_text()
    assert not re.search(r"https?://|<script|<link|src=|@import|url\(", text)  # nothing from elsewhere
    assert not re.search(r'="[^"]*\bnan\b', text)  # no coordinate is NaN
    return ElementTree.fromstring(text)


def count(page: ElementTree.Element, tag: str, style: str) -> int:
    return sum(1 for found in page.iter(tag) if style in found.get("class", "").split())


def text_of(page: ElementTree.Element) -> str:
    return " ".join(page.itertext())


@pytest.mark.parametrize(
    ("num_points", "num_lines", "num_dots"), [(0, 0, 0), (1, 0, 4), (2, 4, 0), (5000, 4, 0)]
)
def test_zero_one_and_many_points(tmp_path: Path, num_points: int, num_lines: int, num_dots: int) -> None:
    """Return and loss, each over steps and over seconds, are four charts."""
    path = tmp_path / "report.html"
    page = page_of([make_run(tmp_path, num_points)], path)
    chart_lines = [found for found in page.iter("path") if found.get("class") == "line c0"]
    assert len(chart_lines) - 1 == num_lines  # one is the legend's
    assert count(page, "circle", "dot") == num_dots
    assert ("nothing recorded" in text_of(page)) == (num_points == 0)
    assert "Cart<Pole>&-v1 · dqn" in text_of(page) and "± 3.5 over 100 episodes" in text_of(page)
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -5.0, 1e-30, 1e30])
def test_values_of_every_kind(tmp_path: Path, value: float) -> None:
    page = page_of([make_run(tmp_path, 3, evaluation=value)], tmp_path / "report.html")
    num_lines = sum(1 for found in page.iter("path") if found.get("class") == "line c1 dashed")
    assert num_lines == (3 if math.isfinite(value) else 0)  # the legend's and two charts'


def test_a_line_breaks_where_a_value_is_missing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 0)
    writer = MetricsWriter(folder)
    for step, loss in enumerate([1.0, 2.0, math.nan, 3.0, math.nan, 1.0, 1.0]):
        writer.write(step, {"train/loss": loss})
    writer.close()
    page = page_of([folder], tmp_path / "report.html")
    svg = next(found for found in page.iter("svg") if found.get("aria-label") == "Loss")
    assert count(svg, "path", "line") == 2 and count(svg, "circle", "dot") == 1
    titles = [title.text for title in svg.iter("title")]
    assert titles[0] == "seed 0, loss: 1 at 0 steps" and len(titles) == 5


def test_seeds_of_one_setting_are_a_mean_with_its_interval(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, 20, seed) for seed in (0, 1, 5)] + [make_run(tmp_path, 10, 0, "averaged")]
    groups = group_seeds([read_run(path) for path in runs])
    assert [len(group) for group in groups] == [3, 1]
    mean = curve(groups[0], "step", "rollout/ep_rew_mean")
    assert mean is not None and mean.low is not None and mean.high is not None
    np.testing.assert_allclose(mean.ys, np.arange(1, 21) + 2.0)
    half_width = 4.302653 * np.std([0, 1, 5], ddof=1) / math.sqrt(3)  # Student's t, 2 degrees of freedom
    np.testing.assert_allclose(mean.high - mean.ys, half_width, rtol=1e-6)
    np.testing.assert_allclose(mean.ys - mean.low, half_width, rtol=1e-6)
    page = page_of(runs, tmp_path / "report.html")
    assert "serial, 3 seeds" in text_of(page) and "averaged, seed 0" in text_of(page)
    over_steps = next(found for found in page.iter("div") if "over-steps" in found.get("class", ""))
    assert count(over_steps, "polygon", "band") == 2


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    samples = np.random.default_rng(0).normal(size=(4, 20_000))
    mean, margin = mean_and_margin(samples)
    assert abs(np.mean(np.abs(mean) <= margin) - 0.95) < 0.005


def test_a_run_that_has_not_ended(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 4)
    (folder / "summary.json").unlink()
    page = text_of(page_of([folder], tmp_path / "report.html"))
    assert "not evaluated yet" in page and "2k" in page


def test_what_cannot_be_reported_is_said(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="no such folder"):
        write_report([tmp_path / "none"], tmp_path / "report.html")
    with pytest.raises(QfleetError, match="cannot be written"):
        write_report([make_run(tmp_path, 1)], tmp_path / "none" / "report.html")
    with pytest.raises(QfleetError, match="name at least one"):
        write_report([], tmp_path / "report.html")


def test_more_runs_than_colours(tmp_path: Path) -> None:
    runs: list[Any] = [make_run(tmp_path, 3, 0, f"topology-{index}") for index in range(10)]
    page = page_of(runs, tmp_path / "report.html")
    assert all(f"topology-{index}" in text_of(page) for index in range(10))


def make_fleet_run(root: Path, seed: int = 0) -> Path:
    folder = RunFolder.create("CartPole-v1", "dqn", seed, root=root)
    folder.write_config({"environment": "CartPole-v1", "run": {"topology": "ape-x", "seed": seed}})
    writer = MetricsWriter(folder.path)
    for index in range(1, 5):
        learner = Role("learner", 1, 600.0, "updates", 0.2 * index, queue=0.5, restarts=index // 2)
        actor = Role(
            "actor", 2, 1500.0, "steps", 0.55, 1.5, 0, staleness=2.0 * index, staleness_p99=9.0 * index
        )
        writer.write(index * 500, FleetView((learner, actor), 0.4).metrics())
    writer.close()
    return folder.path


def test_roles_are_charted_and_listed_the_busiest_first(tmp_path: Path) -> None:
    folder = make_fleet_run(tmp_path)
    actor, learner = roles_of(read_run(folder))
    assert (actor.name, actor.unit, actor.rate, actor.busy) == ("actor", "steps", 1500.0, pytest.approx(0.55))
    assert (actor.bottleneck, actor.staleness, actor.staleness_p99, actor.restarts) == (0.5, 5.0, 36.0, 0)
    assert (learner.busy, learner.bottleneck, learner.queue) == (pytest.approx(0.5), 0.5, 0.5)
    assert learner.staleness is None and learner.restarts == 2
    text = text_of(page_of([folder], tmp_path / "report.html"))
    for said in (
        "Roles",
        "Busy, % of the time, by role",
        "Staleness, updates",
        "1.5k steps/s",
        "600 updates/s",
    ):
        assert said in text


def test_roles_of_several_runs_are_listed_only(tmp_path: Path) -> None:
    runs = [make_fleet_run(tmp_path / "one"), make_run(tmp_path / "two", 3)]
    page = page_of(runs, tmp_path / "report.html")
    assert "Roles" in text_of(page) and "by role" not in text_of(page)
    rows = [list(row.itertext()) for row in page.iter("tr")]
    assert [row[1] for row in rows if row[0] == runs[0].name and row[1] in ("learner", "actor")] == [
        "actor",
        "learner",
    ]


def test_without_roles_nothing_is_said_of_them(tmp_path: Path) -> None:
    assert roles_of(read_run(make_run(tmp_path, 3))) == []
    assert "Roles" not in text_of(page_of([make_run(tmp_path, 3, seed=1)], tmp_path / "report.html"))
