"""What cannot be on Ray is said in one line, before anything starts."""

import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Call

RUN = ("train", "GridWorld-8", "--workers", "2", "--out", "run")
TOPOLOGY = ("--topology", "averaged")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--backend", "ray", "--address", "nowhere"), "it takes HOST:PORT, such as 10.0.0.1:6379, or auto"),
        (("--backend", "ray", "--address", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1"),
        (("--address", "auto"), "--address auto is for --backend ray; this run's backend is threads"),
        (("--interface", "lo"), "--interface lo is for --backend ray; this run's backend is threads"),
        (("--backend", "ray", "--topology", "shared"), "averaged and partitioned work"),
    ],
)
def test_flags_that_do_not_fit(flags: tuple[str, ...], said: str, call: Call) -> None:
    ended = call(*RUN, *TOPOLOGY[: 0 if "shared" in flags else 2], *flags)
    assert said in ended.complaint and not Path("run").exists()


def test_without_ray_it_says_how_to_install_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "qfleet[ray]"' in call(*RUN, *TOPOLOGY, "--backend", "ray").complaint
    assert not Path("run").exists()
