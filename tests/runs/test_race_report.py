"""The report of a race is one well-formed page that says what was measured, whatever was measured."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from example_race import SCHEMES, make_layout, make_policy, make_race

from qfleet.errors import QfleetError
from qfleet.runs.policy_map import GridLayout
from qfleet.runs.race_finding import finding, percent, return_text, seconds_text
from qfleet.runs.race_record import RaceRecord, SchemeRecord, race_from_json, race_to_json
from qfleet.runs.race_report import write_race_report


def page_of(record: RaceRecord, folder: Path) -> ElementTree.Element:
    path = folder / "race.html"
    write_race_report(record, path)
    text = path.read_text()
    # Nothing from elsewhere: the only addresses are the heat maps' own images.
    assert not re.search(r"https?://|<script|<link|src=|@import|url\(", text)
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r'href="([^"]*)', text))
    assert not re.search(r'="[^"]*\b(nan|inf|None)\b', text)
    return ElementTree.fromstring(text)


def styled(page: ElementTree.Element, tag: str, style: str) -> list[ElementTree.Element]:
    return [found for found in page.iter(tag) if style in found.get("class", "").split()]


def text_of(page: ElementTree.Element) -> str:
    return " ".join(" ".join(page.itertext()).split())


def rows_of(page: ElementTree.Element) -> list[list[str]]:
    cells = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in page.iter("tr")]
    return [row for row in cells if row[0] != "scheme"]


def changed(record: RaceRecord, index: int, **changes: object) -> RaceRecord:
    schemes = list(record.schemes)
    schemes[index] = replace(schemes[index], **changes)  # pyright: ignore[reportArgumentType]
    return replace(record, schemes=tuple(schemes))


def test_every_number_of_the_race_is_on_the_page(tmp_path: Path) -> None:
    page = page_of(make_race(), tmp_path)
    results, exchanged = rows_of(page)[:5], rows_of(page)[5:]
    assert [row[0] for row in results] == [row[0] for row in exchanged] == [name for name, *_ in SCHEMES]
    rate = 92e6 * 2 * 0.985
    assert results[4][1:7] == ["2", "20M", f"{20e6 / rate:.3f} s", "181M", "1.97×", "98 %"]
    assert results[2][7] == "–" and results[4][9] == "0.9790"
    assert exchanged[0][1:] == ["–"] * 6
    assert exchanged[1] == ["shared", "–", "–", "–", "–", "0.021 %", "–"]
    assert exchanged[4] == ["partitioned", "305", "65.5k", "1.42", "1.03", "–", "1.3 %"]
    assert "1,000 states × 4 actions · discount 0.99 · 2 workers on threads · seed 0" in text_of(page)


def test_the_best_of_a_column_is_bold(tmp_path: Path) -> None:
    page = page_of(make_race(), tmp_path)
    partitioned = next(row for row in page.iter("tr") if "partitioned" in "".join(row.itertext()))
    bold = [cell.text for cell in styled(partitioned, "td", "best")]
    assert bold[1:3] == ["181M", "1.97×"] and len(bold) == 4
    alike = make_race()
    schemes = tuple(replace(scheme, speed_up=1.0) for scheme in alike.schemes)
    page = page_of(replace(alike, schemes=schemes), tmp_path)
    assert "1.00×" not in [
        cell.text for cell in styled(page, "td", "best")
    ]  # nobody is better than the others


def test_errors_are_drawn_over_steps_and_over_seconds_and_in_words(tmp_path: Path) -> None:
    page = page_of(make_race(), tmp_path)
    charts = styled(page, "svg", "labelled")
    assert len(charts) == 2
    for chart, unit in zip(charts, ("steps", "seconds"), strict=True):
        spoken = chart.get("aria-label") or ""
        assert f"over {unit}, logarithmic" in spoken and "serial 0.00418" in spoken
        assert len(styled(chart, "path", "line")) == 5
        assert [label.text for label in styled(chart, "text", "end-label")] == [name for name, *_ in SCHEMES]
        assert {"1", "0.1", "0.01"} <= {tick.text for tick in styled(chart, "text", "tick")}


def test_short_and_long_races_have_readable_times(tmp_path: Path) -> None:
    assert "milliseconds" in text_of(page_of(make_race(steps=100_000), tmp_path))
    assert "minutes" in text_of(page_of(make_race(steps=10**11), tmp_path))


def test_bars_are_to_scale(tmp_path: Path) -> None:
    page = page_of(make_race(), tmp_path)
    speed_up, efficiency, times = styled(page, "ul", "bar-chart")
    widths = [
        float(re.findall(r"[\d.]+", fill.get("style", ""))[0]) for fill in styled(speed_up, "span", "fill")
    ]
    assert widths == pytest.approx([50.0, 91.0, 97.5, 96.0, 98.5])  # of two workers' ideal
    assert [mark.get("style") for mark in styled(speed_up, "span", "mark")] == ["left:100.00%"] * 5
    assert styled(efficiency, "span", "amount")[1].text == "91\N{NO-BREAK SPACE}%"
    assert styled(times, "span", "amount")[2].text == "never"
    assert styled(times, "span", "fill")[2].get("style") == "width:0.00%"


def test_the_finding_says_who_was_fastest_and_first() -> None:
    record = make_race()
    assert finding(record).replace("\N{NO-BREAK SPACE}", " ") == (
        "Partitioned on 2 workers made 1.97× serial’s steps per second (98 % of ideal) and reached serial’s final "
        "error of 0.00418 in 0.109 s where serial took 0.207 s."
    )
    other = changed(record, 1, seconds_to_error=0.05)
    assert "; shared was first to reach serial’s final error of 0.00418, in 50.0" in finding(other)


def test_the_finding_where_nobody_reached_the_error() -> None:
    schemes = tuple(replace(scheme, seconds_to_error=None) for scheme in make_race().schemes)
    said = finding(replace(make_race(), schemes=schemes))
    assert said.endswith(
        "no parallel scheme reached serial’s final error of 0.00418 in the same number of steps; "
        "shared came nearest, to 0.00406."
    )
    assert "is not known" in finding(make_race(exact=False))
    assert (
        finding(replace(make_race(), schemes=make_race().schemes[:1])) == "Nothing was raced against serial."
    )
    assert "is not known" in finding(replace(make_race(), schemes=make_race().schemes[1:]))


def test_a_world_without_an_exact_solution(tmp_path: Path) -> None:
    page = page_of(make_race(exact=False), tmp_path)
    assert "The exact solution of this world is not known" in text_of(page)
    assert not styled(page, "svg", "labelled") and len(styled(page, "ul", "bar-chart")) == 2
    assert "optimum" not in text_of(page.find(".//section[@class='tiles']") or page)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash(tmp_path: Path, value: float | None) -> None:
    record = changed(
        make_race(), 4, max_error=value, seconds_to_error=value, mean_return=value, parked_fraction=value
    )
    page = page_of(record, tmp_path)
    assert rows_of(page)[4][7:] == ["–", "–", "–"] and rows_of(page)[9][6] == "–"
    assert "partitioned –" in (styled(page, "svg", "labelled")[0].get("aria-label") or "")


def test_diverged_errors_break_the_line(tmp_path: Path) -> None:
    curve = (
        (1, 0.1, 1.0),
        (2, 0.2, 0.5),
        (3, 0.3, math.inf),
        (4, 0.4, math.nan),
        (5, 0.5, 0.0),
        (6, 0.6, 0.1),
    )
    page = page_of(changed(make_race(), 1, curve=curve), tmp_path)
    assert len(styled(styled(page, "svg", "labelled")[0], "path", "line")) == 6


def test_names_are_escaped(tmp_path: Path) -> None:
    record = changed(make_race(make_layout(4, 4), world='<b>&"World"'), 1, name='<i>"shared"&')
    page = page_of(record, tmp_path)
    assert 'Race on <b>&"World"' in text_of(page) and not list(page.iter("b")) and not list(page.iter("i"))
    assert rows_of(page)[1][0] == '<i>"shared"&'


def test_a_small_grid_shows_every_action_and_value(tmp_path: Path) -> None:
    page = page_of(make_race(make_layout(4, 4), "GridWorld-4"), tmp_path)
    maps = styled(page, "svg", "map")
    assert len(maps) == 5 and all("Greedy policy of" in (drawn.get("aria-label") or "") for drawn in maps)
    outlines = "".join(path.get("d", "") for path in styled(maps[0], "path", "arrows"))
    assert outlines.count("M") == outlines.count("z") == 15
    assert len(styled(maps[0], "text", "dark-ink")) + len(styled(maps[0], "text", "light-ink")) == 15
    assert len(styled(maps[0], "rect", "end")) == len(styled(maps[0], "circle", "start")) == 1
    assert "An arrow is the mean" not in text_of(page)


def test_one_map_is_chosen_without_scripts(tmp_path: Path) -> None:
    page = page_of(make_race(make_layout(8, 8)), tmp_path)
    buttons = [found for found in page.iter("input") if found.get("name") == "map"]
    assert [button.get("checked") for button in buttons] == [None] * 4 + ["checked"]
    assert [label.get("for") for label in page.iter("label")] == [button.get("id") for button in buttons]
    style = next(page.iter("style")).text or ""
    assert all(
        f"#map-{index}:checked ~ .views .view-{index} {{ display: grid; }}" in style for index in range(5)
    )
    assert "prefers-color-scheme: dark" in style


def test_large_grids_are_joined_to_what_can_be_seen(tmp_path: Path) -> None:
    page = page_of(make_race(make_layout(300, 300)), tmp_path)
    drawn = styled(page, "svg", "map")[0]
    count = {
        style: "".join(path.get("d", "") for path in styled(drawn, "path", style)).count("M")
        for style in ("fine", "coarse")
    }
    assert count["fine"] <= 64 * 64 and 200 <= count["coarse"] <= 16 * 16
    assert "mean direction of 6 × 6 states" in text_of(page) and "of 21 × 21 states" in text_of(page)
    assert (tmp_path / "race.html").stat().st_size < 3_000_000


def test_no_maps_without_policies(tmp_path: Path) -> None:
    page = page_of(make_race(), tmp_path)
    assert not styled(page, "svg", "map") and "Learned greedy policy" not in text_of(page)


@pytest.mark.parametrize("layout", [None, GridLayout((5, 7)), make_layout(130, 130)])
def test_records_survive_json(layout: GridLayout | None) -> None:
    record = make_race(layout)
    assert race_from_json(json.loads(json.dumps(race_to_json(record), allow_nan=False))) == record


def test_numbers_that_are_not_finite_survive_json() -> None:
    record = changed(make_race(), 0, max_error=math.inf, mean_return=-math.inf, curve=((1, 0.5, math.nan),))
    found = race_from_json(json.loads(json.dumps(race_to_json(record), allow_nan=False)))
    assert found.schemes[0].max_error == math.inf and found.schemes[0].mean_return == -math.inf
    assert math.isnan(found.schemes[0].curve[0][2])


@pytest.mark.parametrize("key", ["world", "schemes", "grid_shape"])
def test_what_is_no_record_is_said(key: str) -> None:
    document = race_to_json(make_race(make_layout(4, 4)))
    with pytest.raises(QfleetError, match=f"no record of a race.*{key}"):
        race_from_json({name: value for name, value in document.items() if name != key})
    with pytest.raises(QfleetError, match="no record of a race"):
        race_from_json({**document, key: 3} if key != "world" else {**document, "unknown": 1})


def test_what_cannot_be_reported_is_said(tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="cannot be written"):
        write_race_report(make_race(), tmp_path / "none" / "race.html")
    with pytest.raises(QfleetError, match="race at least one"):
        write_race_report(replace(make_race(), schemes=()), tmp_path / "race.html")


def test_more_schemes_than_colours(tmp_path: Path) -> None:
    record = make_race()
    more = tuple(replace(record.schemes[4], name=f"cut {index}") for index in range(8))
    page = page_of(replace(record, schemes=record.schemes + more), tmp_path)
    assert [row[0] for row in rows_of(page)][5:13] == [f"cut {index}" for index in range(8)]


def test_numbers_as_people_read_them() -> None:
    shown = [seconds_text(seconds) for seconds in (0.0123, 0.5, 12.0, 119.9, 200.0, None, math.nan)]
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in shown] == [
        *("12.3 ms", "0.500 s", "12.0 s", "120 s", "3 min 20 s", "–", "–")
    ]
    assert [percent(share)[:-2] for share in (0.0, 0.00021, 0.5, 1.02)] == ["0", "0.021", "50", "102"]
    assert [return_text(value) for value in (0.5, -47.25, 1234.0, 123456.0, None)] == [
        *("0.5000", "-47.25", "1234", "123,456", "–")
    ]


def test_a_scheme_needs_only_what_applies_to_it() -> None:
    scheme = SchemeRecord("serial", "serial", None, 1, 10, 1.0, 10.0, 1.0, 1.0, None, None, None)
    assert scheme.rounds is None and scheme.curve == () and scheme.policy is None
    assert make_policy(make_layout(4, 4), 0.9, 0.0, 0).values[15] is None
    assert np.isfinite(
        [value for value in make_policy(make_layout(4, 4), 0.9, 0.0, 0).values[:15] if value]
    ).all()
