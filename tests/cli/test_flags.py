"""Every setting is a flag with help, and its default is that of the environment and the topology."""

import dataclasses
from pathlib import Path

import pytest
from conftest import Call

from qfleet.choices import (
    ALGORITHM_CONFIGS,
    ENGINE_CONFIGS,
    TOPOLOGY_CONFIGS,
    Algorithm,
    TopologyName,
    kind_of,
)
from qfleet.cli.flags import flags_of
from qfleet.cli.training_flags import read_train_flags
from qfleet.settings import RunConfig, Settings
from qfleet.tuned import TUNED, default_settings


def help_lines(call: Call, *arguments: str) -> list[str]:
    done = call("train", *arguments, "--help")
    assert done.code == 0 and done.err == "", done
    return [line.strip("│ ") for line in done.out.splitlines()]


RUNS = [
    (algorithm, topology)
    for algorithm in ("q-learning", "dqn")
    for topology in TOPOLOGY_CONFIGS[kind_of(algorithm)]
]


@pytest.mark.parametrize(("algorithm", "topology"), RUNS)
def test_every_field_is_a_flag_with_help(call: Call, algorithm: Algorithm, topology: TopologyName) -> None:
    kind = kind_of(algorithm)
    lines = help_lines(call, "CartPole-v1", "--algorithm", algorithm, "--topology", topology)
    for config in (
        RunConfig,
        ENGINE_CONFIGS[kind],
        ALGORITHM_CONFIGS[algorithm],
        TOPOLOGY_CONFIGS[kind][topology],
    ):
        for item in dataclasses.fields(config):
            name = "import" if item.name == "import_modules" else item.name.replace("_", "-")
            at = [
                index for index, line in enumerate(lines) if line.split(",")[0].split(" ")[0] == f"--{name}"
            ]
            assert len(at) == 1, name
            text = " ".join(lines[at[0] : at[0] + 3])
            assert any(word[0].isupper() or word[0].isalpha() for word in text.split()[1:]), name
            assert any(len(word) > 2 for word in text.partition("(default")[0].split()[2:]), name


def test_the_help_is_the_fields_docstring(call: Call) -> None:
    text = " ".join(" ".join(help_lines(call)).split())
    for sentence in (
        "Adam's step size.",
        "Environments that step together.",
        "Steps of a block, rounded up to whole steps of the vector environment.",
        "Seed of everything random.",
        "Modules to import first, because they register environments",
    ):
        assert sentence in text


PYTHON_STEPPED = ("Acrobot-v1", "MountainCar-v0", "LunarLander-v3")
"""Without a vector version of their own: workers on threads would step them one at a time."""


@pytest.mark.parametrize(
    "environment", [name for name in TUNED if "*" not in name] + ["ALE/Pong-v5", "Unheard-v0"]
)
@pytest.mark.parametrize("topology", TOPOLOGY_CONFIGS["deep"])
def test_without_flags_settings_are_the_tuned_ones(environment: str, topology: TopologyName) -> None:
    _, settings = read_train_flags([environment, "--topology", topology])
    shared = topology not in ("overlapped", "serial") and environment in PYTHON_STEPPED
    assert settings == default_settings(environment, topology, compiled=not shared)


def test_defaults_shown_are_the_tuned_ones(call: Call) -> None:
    text = " ".join(help_lines(call, "CartPole-v1"))
    assert f"(default: {default_settings('CartPole-v1').run.steps})" in text


def test_values_lists_and_switches_mix_in_any_order() -> None:
    arguments = "--wrappers TimeLimit=9 --json X-v0 --import json --hidden-sizes=4 --no-double"
    arguments += " --import csv math --until-return -3"
    flags, settings = read_train_flags(arguments.split())
    assert flags.environment == "X-v0" and flags.json and not flags.quiet
    assert settings.engine.import_modules == ("json", "csv", "math") and settings.engine.wrappers == (
        "TimeLimit=9",
    )
    assert settings.dqn.hidden_sizes == (4,) and not settings.dqn.double
    assert settings.run.until_return == -3


@pytest.mark.parametrize(("algorithm", "topology"), RUNS)
def test_every_setting_has_its_own_name(algorithm: Algorithm, topology: TopologyName) -> None:
    kind = kind_of(algorithm)
    configs = (
        RunConfig,
        ENGINE_CONFIGS[kind],
        ALGORITHM_CONFIGS[algorithm],
        TOPOLOGY_CONFIGS[kind][topology],
    )
    names = [flag.name for config in configs for flag in flags_of(config)]
    assert len(set(names)) == len(names) > 30


def test_settings_survive_json() -> None:
    settings = dataclasses.replace(default_settings("CartPole-v1"), objects=("network",))
    assert Settings.from_json(settings.to_json() | {"objects": ["network"]}) == settings


def test_the_overview_is_compact_and_quick(call: Call, tmp_path: Path) -> None:
    done = call("--help")
    assert done.code == 0 and len(done.out.splitlines()) < 20
    assert call().out == done.out
