"""The key of a world: equal for equal code, in every process, and new for every edit that matters."""

import importlib
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qfleet.worlds.catalogue import make_world
from qfleet.worlds.fingerprint import fingerprint

HELPERS = "SCALE = 3\ndef shift(x):\n    return x + 1\n"
SOURCE = """
import numba
import numpy as np
import helpers
SIZE = 10
TABLE = np.arange(2000)
PAIR = (np.arange(2000), 1)
@numba.njit
def pay(state, factor=2.0):
    return factor * state
def make(limit):
    def inner(state):
        return state % limit
    return inner
bound = make(7)
def step(parameters, state, action, random):
    return (state + TABLE[0] + PAIR[0][1]) % SIZE, pay(state) + helpers.SCALE + bound(state), np.floor(random) > 1
"""


def key_of(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch, helpers: str = HELPERS) -> str:
    """The key of `step` in a module of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "helpers.py").write_text(helpers)
    (folder / "edited.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("helpers", "edited"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        return fingerprint(importlib.import_module("edited").step)
    finally:
        for name in ("helpers", "edited"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SIZE = 10", "SIZE = 11"),
        ("return factor * state", "return factor + state"),
        ("factor=2.0", "factor=3.0"),
        ("np.arange(2000)\nPAIR", "np.arange(2000) * (np.arange(2000) != 1000)\nPAIR"),
        ("PAIR = (np.arange(2000), 1)", "PAIR = (np.arange(2000) * (np.arange(2000) != 1000), 1)"),
        ("make(7)", "make(8)"),
        ("return state % limit", "return state // limit"),
        ("np.floor(random)", "np.ceil(random)"),
    ],
)
def test_an_edit_anywhere_changes_the_key(before: str, after: str, tmp_path: Path, monkeypatch) -> None:
    assert before in SOURCE
    old = key_of(tmp_path / "old", SOURCE, monkeypatch)
    assert old == key_of(tmp_path / "same", SOURCE, monkeypatch)
    assert old != key_of(tmp_path / "new", SOURCE.replace(before, after), monkeypatch)


def test_an_edit_of_another_module_changes_the_key(tmp_path: Path, monkeypatch) -> None:
    old = key_of(tmp_path / "old", SOURCE, monkeypatch)
    assert old != key_of(tmp_path / "new", SOURCE, monkeypatch, HELPERS.replace("3", "4"))
    assert old == key_of(tmp_path / "unused", SOURCE, monkeypatch, HELPERS.replace("x + 1", "x + 2"))


def test_equal_worlds_of_two_modules_have_keys_of_their_own() -> None:
    """A cached kernel imports the module of its functions, which may be another's by the time it is loaded."""
    keys = {name: _key_in(name) for name in ("one", "other", "__main__", "__mp_main__")}
    assert len({keys["one"], keys["other"], keys["__main__"]}) == 3
    assert keys["__mp_main__"] == keys["__main__"], "what a child that was spawned calls its parent's script"


def _key_in(module: str) -> str:
    names: dict[str, Any] = {"__name__": module}
    exec("def step(state):\n    return state + 1\n", names)
    return fingerprint(names["step"])


def _key_and_step(pickled: bytes) -> tuple[str, object]:
    world = pickle.loads(pickled)  # noqa: S301  (our own bytes)
    return world.key, world.step(world.parameters, 14, 3, 0.5)


def test_another_process_has_the_same_key_and_can_step_a_pickled_world() -> None:
    world = make_world("GridWorld-4", {})
    assert world is not None
    code = "from qfleet.worlds.catalogue import make_world; print(make_world('GridWorld-4', {}).key)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == world.key
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_key_and_step, (pickle.dumps(world),)) == (world.key, (15, 1.0, True))
