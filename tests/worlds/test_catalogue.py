"""Names of worlds: what they mean, and what is said of those that mean nothing."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import qfleet.worlds.catalogue as catalogue
from qfleet.cli.environments import main
from qfleet.errors import QfleetError
from qfleet.worlds.catalogue import FAMILIES, WORLD_NAMES, make_world

DOCUMENT = Path(__file__).parents[2] / "docs" / "worlds.md"


@pytest.mark.parametrize("name", WORLD_NAMES)
def test_every_example_is_a_world_with_its_name(name: str) -> None:
    world = make_world(name, {"max_episode_steps": "77"})
    assert world is not None and world.name == name and world.max_episode_steps == 77
    family = FAMILIES[name.partition("-")[0]]
    sizes = family.read(tuple(int(number) for number in re.findall(r"\d+", name)))
    assert sizes is not None and family.extent(sizes) == (world.num_states, world.num_actions)
    world.check()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_option_is_documented(name: str) -> None:
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {name} |"))
    own = [item.name for item in fields(FAMILIES[name].options) if item.name != "max_episode_steps"]
    assert re.findall(r"`(\w+)`", row) == own


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Chain-v0", "Gridworld3-4", "somewhere:GRID", "", "FrozenLake8x8-v1"]
)
def test_other_names_are_somebody_elses(name: str) -> None:
    assert make_world(name, {}) is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gridworld-8", {}, "did you mean GridWorld-8?"),
        ("GridWorld", {}, "GridWorld-N or GridWorld-RxC: GridWorld-64"),
        ("GridWorld-", {}, "GridWorld-64"),
        ("GridWorld-big", {}, "GridWorld-64"),
        ("GridWorld-3x3x3", {}, "GridWorld-N or GridWorld-RxC"),
        ("GridWorld--4", {}, "GridWorld-64"),
        ("GridWorld-0", {}, "at least 1"),
        ("GridWorld-1", {}, "at least 2 cells"),
        ("GridWorld-4x0", {}, "at least 1"),
        ("Chain-1", {}, "at least 2"),
        ("Garnet-10x2", {}, "Garnet-S or Garnet-SxAxB"),
        ("Garnet-3x2x4", {}, "3 states have no 4 different next states"),
        ("GridWorld-4", {"slipp": "0.1"}, "did you mean slip?"),
        ("GridWorld-4", {"colour": "red"}, "it has max_episode_steps, slip, walls, seed, start"),
        ("GridWorld-4", {"slip": "much"}, "slip is 'much'; it must be a number"),
        ("GridWorld-4", {"seed": "1.5"}, "seed is '1.5'; it must be a whole number"),
        ("GridWorld-4", {"slip": "1.5"}, "slip is 1.5; it must be from 0 to 1"),
        ("GridWorld-4", {"slip": "nan"}, "slip is nan"),
        ("GridWorld-4", {"walls": "1"}, "walls is 1.0; it must be from 0 to less than 1"),
        ("GridWorld-4", {"start": "end"}, "start is 'end'; it must be one of uniform, first"),
        ("Queue-4", {"arrival": "0.7"}, "arrival 0.7 + service 0.6 must be at most 1"),
        ("Queue-4", {"speeds": "1"}, "speeds is 1; it must be at least 2"),
        ("Inventory-4", {"price": "inf"}, "price is inf"),
        ("Chain-4", {"max_episode_steps": "-1"}, "max_episode_steps is -1"),
    ],
)
def test_mistakes_are_told_in_one_line(name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(QfleetError) as caught:
        make_world(name, options)
    assert said in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["GridWorld-40000", "Inventory-200000", "Garnet-100000000"])
def test_what_memory_cannot_hold_is_refused_before_it_is_made(name: str, monkeypatch) -> None:
    monkeypatch.setattr(catalogue, "available_memory_bytes", lambda: 4 * 10**9)
    with pytest.raises(QfleetError, match=r"need at least .* GB; 4\.0 GB are available"):
        make_world(name, {})


def test_states_that_cannot_be_numbered_are_refused() -> None:
    with pytest.raises(QfleetError, match="at most 2,147,483,647"):
        make_world("GridWorld-100000", {})


def test_worlds_are_listed_with_the_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, summary in WORLD_NAMES.items():
        assert [name, *summary.split()] in lines
