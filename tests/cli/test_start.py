"""Starting is quick: a command imports what it needs."""

import subprocess
import sys
from pathlib import Path

from conftest import finish, start

import qfleet


def imported(code: str, *modules: str) -> list[str]:
    code += f"\nimport sys\nprint([m for m in {modules!r} if m in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return eval(found.stderr.splitlines()[-1])


def test_help_imports_next_to_nothing() -> None:
    heavy = ("numpy", "numba", "torch", "gymnasium", "tyro", "rich")
    assert imported("from qfleet.__main__ import main\nmain(['--help'])", *heavy) == []


def test_training_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    arguments = ["train", "CartPole-v1", "--steps", "200", "--quiet", "--out", str(tmp_path / "run")]
    code = f"from qfleet.__main__ import main\nassert main({arguments}) == 0"
    assert imported(code, "torch", "rich", "scipy.special", "pandas", "imageio", "pygame") == []


def test_version_and_public_names() -> None:
    done = finish(start(Path.cwd(), "--version"))
    assert (done.code, done.out) == (0, f"qfleet {qfleet.__version__}\n")
    assert all(getattr(qfleet, name) for name in qfleet.__all__) and set(qfleet.__all__) <= set(dir(qfleet))
    assert not hasattr(qfleet, "nothing")


def test_a_reader_that_leaves_is_no_error() -> None:
    process = start(Path.cwd(), "environments")
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait(60) == 128 + 13 and process.stderr.read() == ""
    process.stderr.close()
