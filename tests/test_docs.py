"""What the documents state, held against the code: the matrix, the flags, links, and what the README says to paste."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qfleet.choices import ALGORITHM_CONFIGS, ENGINE_CONFIGS, TOPOLOGY_CONFIGS
from qfleet.cli.overview import COMMANDS
from qfleet.settings import RunConfig
from qfleet.tabular.support import SUPPORTED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_COMMANDS = {"json", "seeds", "out", "config", "quiet", "help", "video", "episodes", "import"}
OF_OTHERS = {"allow-run-as-root", "oversubscribe", "host", "bind-to", "binary", "head", "port", "backends"}
"""Of mpiexec, ray, pip and our benchmarks."""
LETTERS = {"compiled": "w", "python": "p", "tiles": "t"}


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_published_matrix_is_what_is_supported() -> None:
    text = (ROOT / "docs" / "tables.md").read_text()
    (table,) = re.findall(r"^\| \| serial .*?\n\n", text, re.DOTALL | re.MULTILINE)
    heading, _, *rows = table.strip().splitlines()
    topologies = [cell.strip() for cell in heading.split("|")[2:-1]]
    published: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in LETTERS}
    for row in rows:
        rule, *cells = [cell.strip() for cell in row.split("|")[1:-1]]
        for stepping, letter in LETTERS.items():
            found = [name for name, cell in zip(topologies, cells, strict=True) if letter in cell.split()]
            published[stepping] |= {rule: tuple(found)} if found else {}
    assert published == SUPPORTED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page: Path) -> None:
    configs = [RunConfig, *ALGORITHM_CONFIGS.values(), *ENGINE_CONFIGS.values()]
    configs += [config for named in TOPOLOGY_CONFIGS.values() for config in named.values()]
    known = {item.name.replace("_", "-") for config in configs for item in dataclasses.fields(config)}
    flags = set(re.findall(r"(?<![\w-])--(?:no-)?([a-z][a-z-]+)", page.read_text()))
    assert flags - known - OF_COMMANDS - OF_OTHERS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    commands = set(re.findall(r"^(?: {4})?`?qfleet ([a-z]+)", page.read_text(), re.MULTILINE))
    assert commands <= set(COMMANDS)


def test_the_pasted_world_trains_word_for_word(tmp_path: Path) -> None:
    (script,) = (block for block in blocks("bash") if "my/world.py" in block)
    fewer_steps = f'qfleet() {{ "{sys.executable}" -m qfleet "$@" --steps 200000 --json; }}\n'
    summary = run(["bash", "-ec", fewer_steps + script], tmp_path)
    assert '"steps": 200000' in summary and '"topology": "partitioned"' in summary


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (script,) = blocks("python")
    assert float(run([sys.executable, "-c", script], tmp_path).split()[-1]) < 1e-9
