"""Roles as lines of a terminal, wide or narrow."""

import pytest

from qfleet.fleet_view import FleetView, Role
from qfleet.runs.fleet_lines import fleet_lines

VIEW = FleetView(
    (
        Role("replay shard", 2, 42_600.0, "transitions", 0.06, queue=6.33, restarts=0),
        Role("learner", 1, 643.0, "updates", 0.97, queue=0.75, restarts=12),
        Role("actor", 2, 1440.0, "steps", 0.01, queue=0.25, restarts=0, staleness=8.4),
        Role("driver", 1, 103.0, "chains", 0.01),
    ),
    0.4461,
)


def test_one_line_a_role_and_who_the_others_wait_for() -> None:
    assert fleet_lines(VIEW, 100) == [
        "  replay shard ×2  42.6k transitions/s  6% busy   queue 6.3               restarts 0",
        "▸ learner          643 updates/s        97% busy  queue 0.8               restarts 12",
        "  actor ×2         1.44k steps/s        1% busy   queue 0.2  staleness 8  restarts 0",
        "  driver           103 chains/s         1% busy",
        "  bottleneck: learner; 0.446 updates per step",
    ]


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [
        (85, []),
        (84, ["restarts"]),
        (76, ["restarts"]),
        (62, ["restarts", "staleness"]),
        (50, ["restarts", "staleness", "queue"]),
    ],
)
def test_narrow_terminals_do_without_the_least_important(columns: int, left_out: list[str]) -> None:
    lines = fleet_lines(VIEW, columns)
    said = "\n".join(lines)
    assert max(map(len, lines)) <= columns
    for word in ("restarts", "staleness", "queue"):
        assert (word in said) == (word not in left_out)


def test_without_steps_there_is_no_ratio() -> None:
    assert fleet_lines(FleetView(VIEW.roles[1:2], None), 80)[-1] == "  bottleneck: learner"
