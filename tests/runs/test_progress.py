"""Progress goes to standard error, seldom, or nowhere."""

import io
import re
import time

import pytest

from qfleet.fleet_view import FleetView, Role
from qfleet.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(progress: Progress, num_updates: int = 1000) -> None:
    with progress:
        for step in range(1, num_updates + 1):
            progress.update(step, step // 2, 12.5, 0.25)
        progress.message("evaluated [bold]")


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    run(Progress(1000))
    out, err = capsys.readouterr()
    assert out == ""
    first, message, last = err.splitlines()
    assert first.startswith("1/1k steps") and message == "evaluated [bold]"
    assert re.fullmatch(
        r"1k/1k steps  \S+ steps/s  \S+ updates/s  return 12.5  ε 0.25  0:00  0:00 left", last
    )


def test_a_live_line_on_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    run(Progress(1000, stream=terminal))
    assert capsys.readouterr().out == ""
    assert "1k/1k steps" in terminal.getvalue() and "━" * 24 in terminal.getvalue()
    assert terminal.getvalue().count("steps/s") < 10  # throttled
    assert "evaluated [bold]" in terminal.getvalue()


def test_a_narrow_terminal_has_numbers_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    run(Progress(1000, stream=terminal))
    assert "1k/1k steps" in terminal.getvalue() and "━" not in terminal.getvalue()


@pytest.mark.parametrize("columns", [50, 60, 70, 80, 110])
def test_no_line_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    with Progress(123_456_789, stream=terminal) as progress:
        progress.update(12_345_678, 1_234_567, -123.4, 0.25, 0.0123)
    line = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", terminal.getvalue()).split("\r")[-1].strip("\n")
    assert "…" not in line and "12.3M/123M steps" in line and len(line) <= columns
    assert ("updates/s" in line) == (columns >= 110)


def test_a_table_shows_one_rate_and_its_error() -> None:
    stream = io.StringIO()
    with Progress(10**9, stream=stream) as progress:
        progress.update(10**8, 10**8, 0.5, 0.1, 0.0123)
    assert "updates/s" not in stream.getvalue() and "error 0.012" in stream.getvalue()


def test_a_warning_is_shown_even_if_quiet() -> None:
    stream = io.StringIO()
    Progress(1000, quiet=True, stream=stream).warning("damaged")
    assert stream.getvalue() == "damaged\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_quiet(stream: io.StringIO, capsys: pytest.CaptureFixture) -> None:
    run(Progress(1000, quiet=True, stream=stream))
    assert stream.getvalue() == "" and capsys.readouterr() == ("", "")


def test_rates_of_a_resumed_run_count_from_where_it_goes_on() -> None:
    stream = io.StringIO()
    progress = Progress(None, first_step=1_000_000, first_update=500_000, stream=stream)
    with progress:
        time.sleep(0.1)
        progress.update(1_000_100, 500_050)
    rates = re.search(r"1M steps  (\d+) steps/s  (\d+) updates/s  0:00$", stream.getvalue().strip())
    assert rates and 300 < int(rates[1]) <= 1000 and 150 < int(rates[2]) <= 500


def test_many_updates_cost_little() -> None:
    progress = Progress(10**6, stream=Terminal())
    with progress:
        start_seconds = time.process_time()
        for step in range(100_000):
            progress.update(step)
        assert time.process_time() - start_seconds < 1.0


ROLES = FleetView(
    (
        Role("learner", 1, 643.0, "updates", 0.97, queue=0.75, restarts=0),
        Role("actor", 2, 1440.0, "steps", 0.4, queue=0.25, restarts=0, staleness=8.4),
    ),
    0.25,
)


def test_roles_have_lines_below_the_live_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with Progress(1000, stream=terminal) as progress:
        progress.update(500, 125, fleet=ROLES)
    lines = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", terminal.getvalue()).replace("\r", "").splitlines()
    shown = [line.rstrip() for line in lines][-4:]
    assert "500/1k steps" in shown[0] and shown[1].startswith("▸ learner") and "staleness 8" in shown[2]
    assert shown[3] == "  bottleneck: learner; 0.25 updates per step"


def test_a_plain_line_names_the_bottleneck(capsys: pytest.CaptureFixture) -> None:
    with Progress(1000) as progress:
        progress.update(500, 125, fleet=ROLES)
    assert capsys.readouterr().err.strip().endswith("bottleneck learner (97% busy)")
