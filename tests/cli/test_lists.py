"""What can be chosen, and what this machine offers."""

from pathlib import Path

from conftest import Call

from qfleet.settings import ALGORITHM_CONFIGS, TOPOLOGY_CONFIGS


def test_environments_are_listed_with_ones_own(call: Call) -> None:
    Path("ours.py").write_text("import gymnasium\ngymnasium.register('Ours-v0', 'ours:Ours')\n")
    done = call("environments", "--import", "ours")
    assert done.code == 0 and done.err == "", done
    lines = [line.strip() for line in done.out.splitlines()]
    assert "CartPole-v1 *" in lines and "Ours-v0" in lines and "Pendulum-v1" not in done.out


def test_every_algorithm_and_topology_has_a_line(call: Call) -> None:
    for command, known in (("algorithms", ALGORITHM_CONFIGS), ("topologies", TOPOLOGY_CONFIGS)):
        lines = call(command).out.splitlines()
        assert [line.split()[0] for line in lines] == list(known)
        assert all(len(line.split()) > 5 for line in lines)


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
