"""The command line as people use it: in this process where speed matters, as a program where it must be one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import qfleet
from qfleet.cli.dispatch import main

ENVIRONMENT = {key: value for key, value in os.environ.items() if "DISPLAY" not in key and "SDL" not in key}
ENVIRONMENT["PYTHONPATH"] = str(Path(qfleet.__file__).parents[1])


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a mistake."""
        assert self.code == 2, self
        assert self.out == "", self
        lines = self.err.splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("qfleet: "), self
        return lines[0].removeprefix("qfleet: ")


Call = Callable[..., Outcome]


def _forget_modules_of(folder: Path) -> None:
    """Another test's module of the same name is another module."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Call]:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # The folder that --import looks in is this test's alone.
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = int(exit.code or 0)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield run
    _forget_modules_of(tmp_path)


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Starts the real program."""
    command = [sys.executable, "-m", "qfleet", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str], timeout_seconds: float = 60) -> Outcome:
    out, err = process.communicate(timeout=timeout_seconds)
    return Outcome(process.returncode, out, err)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2,000 steps; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = finish(
        start(folder.parent, "train", "CartPole-v1", "--steps", 2000, "--quiet", "--out", folder, "--json")
    )
    assert done.code == 0, done
    return folder
