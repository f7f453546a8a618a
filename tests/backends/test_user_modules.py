"""Modules of the user reach interpreters that do not have their files."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from qfleet.backends.user_modules import own_sources

SOURCE = Path(__file__).parents[2] / "src"
RECEIVE = """
import pickle, sys
from qfleet.backends.user_modules import SentModules
SentModules(pickle.loads(sys.stdin.buffer.read())).install()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "ownpackage"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from ownpackage.inner.deep import value\n")
    (package / "inner" / "deep.py").write_text("from .. import later\nvalue = 7\n")
    (package / "later.py").write_text("def fail():\n    raise ValueError('états')\n", encoding="utf-8")
    (package / "not-a-module.py").write_text("")
    (tmp_path / "ownmodule.py").write_text("import ownpackage\nBORDER = ownpackage.value + 1\n")
    installed = tmp_path / "env" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "installedmodule.py").write_text("")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, installed):
        monkeypatch.syspath_prepend(place)
    for name in [name for name in sys.modules if name.startswith(("own", "installedmodule"))]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def _received(program: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, "-c", RECEIVE + program],
        input=pickle.dumps(own_sources()),
        cwd="/",
        env=environment,
        capture_output=True,
        timeout=60,
    )


def test_modules_and_packages_are_imported_from_what_was_sent(folder: Path) -> None:
    import installedmodule  # pyright: ignore[reportMissingImports] # noqa: F401
    import ownmodule  # pyright: ignore[reportMissingImports] # noqa: F401

    names = {name for name in own_sources() if name.startswith(("own", "installed"))}
    inner = {"ownpackage.inner.deep", "ownpackage.later"}
    assert names == {"ownmodule", "ownpackage", "ownpackage.inner", *inner}
    ended = _received("import ownmodule, ownpackage.later; print(ownmodule.BORDER, ownmodule.__file__)")
    assert ended.stdout.decode().split() == ["8", str(folder / "ownmodule.py")], ended.stderr


def test_tracebacks_show_the_users_lines(folder: Path) -> None:
    import ownpackage  # pyright: ignore[reportMissingImports] # noqa: F401

    told = _received("import ownpackage.later; ownpackage.later.fail()").stderr.decode()
    assert "ValueError: états" in told and f'{folder / "ownpackage" / "later.py"}", line 2, in fail' in told


def test_what_was_not_imported_is_not_sent(folder: Path) -> None:
    assert not [name for name in own_sources() if name.startswith("own")]
    assert b"No module named 'ownmodule'" in _received("import ownmodule").stderr
    assert "qfleet" not in own_sources() and "numpy" not in own_sources()
