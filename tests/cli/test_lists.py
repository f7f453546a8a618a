"""What can be chosen, and what this machine offers."""

from pathlib import Path

from conftest import Call

from qfleet.choices import ALGORITHM_CONFIGS, TOPOLOGY_CONFIGS
from qfleet.tabular.support import TABLE_TOPOLOGIES
from qfleet.worlds.catalogue import WORLD_NAMES


def test_environments_are_listed_with_ones_own(call: Call) -> None:
    Path("ours.py").write_text("import gymnasium\ngymnasium.register('Ours-v0', 'ours:Ours')\n")
    done = call("environments", "--import", "ours")
    assert done.code == 0 and done.err == "", done
    lines = [line.strip() for line in done.out.splitlines()]
    assert "CartPole-v1 *" in lines and "Ours-v0" in lines and "Pendulum-v1" not in done.out


def test_every_algorithm_and_topology_has_a_line(call: Call) -> None:
    lines = call("algorithms").out.splitlines()
    assert [line.split()[0] for line in lines[: len(ALGORITHM_CONFIGS)]] == list(ALGORITHM_CONFIGS)
    assert all(len(line.split()) > 5 for line in lines[: len(ALGORITHM_CONFIGS)])
    lines = call("topologies").out.splitlines()
    names = [name for known in TOPOLOGY_CONFIGS.values() for name in known]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == names
    assert all(len(line.split()) > 5 for line in lines if line.startswith("  "))
    assert not any("ettings of" in line for line in lines), "the idea is meant"


def test_the_matrix_says_what_is_supported(call: Call) -> None:
    lines = call("algorithms").out.splitlines()[len(ALGORITHM_CONFIGS) + 1 :]
    header, rows = lines[0].split(), {line.split()[0]: line.split()[1:] for line in lines[1:8]}
    assert header == list(TABLE_TOPOLOGIES)
    assert rows["q-learning"] == ["wpt", "wpt", "wpt", "w", "wp", "w"]
    assert rows["tree-backup"] == ["wp", "wp", "wp", "w", "wp", "-"]


def test_worlds_are_listed(call: Call) -> None:
    out = call("environments").out
    assert all(f"  {name} " in out for name in WORLD_NAMES)


def test_the_doctor_looks_at_everything(call: Call) -> None:
    done = call("doctor")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert all(line.split()[0] in ("ok", "missing") for line in lines)
    for name in (
        "Python",
        "torch",
        "extra atari",
        "cores",
        "BLAS",
        "CUDA",
        "memory",
        "shared memory",
        "kernel cache",
    ):
        assert any(line[9:].startswith(name) for line in lines), name
    assert all("optional" in line for line in lines if line.startswith("missing"))
