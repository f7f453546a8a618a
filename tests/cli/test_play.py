"""Watching a run: videos that play, and windows where there is a display."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Call
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from qfleet.play import _video_frame


def frames_of(video: Path, height: int, width: int) -> NDArray[np.uint8]:
    """(frames, height, width, 3), by the decoder itself."""
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(video), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def test_a_video_shows_every_frame(call: Call, trained: Path) -> None:
    done = call("play", trained, "--video", "out.mp4", "--seed", 3, "--episodes", 2)
    assert done.code == 0, done
    first, second, video = (line.split() for line in done.out.splitlines())
    assert first[:2] == ["episode", "1"] and video == ["video", "out.mp4"]
    frames = frames_of(Path("out.mp4"), 400, 600)
    # CartPole's return is its number of steps; the first frame comes before the first.
    assert len(frames) == float(first[3]) + float(second[3]) + 2
    assert (frames[0] != frames[-1]).any()


def test_the_same_seed_plays_the_same(call: Call, trained: Path) -> None:
    played = [call("play", trained, "--video", "out.mp4", "--seed", 3).out for _ in range(2)]
    assert played[0] == played[1]


def test_a_window_that_nobody_sees(call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    done = call("play", trained)
    assert done.code == 0 and done.out.startswith("episode 1  return"), done


def test_a_display_that_cannot_be_opened(call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "no_such_driver")
    assert "--video out.mp4 needs no display" in call("play", trained).complaint


def test_what_cannot_be_drawn_is_refused(call: Call) -> None:
    Path("unseen.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n\n"
        "class Unseen(CartPoleEnv):\n"
        "    metadata = {'render_modes': []}\n"
        "    def __init__(self, render_mode=None):\n"
        "        super().__init__()\n\n"
        "gymnasium.register('Unseen-v0', Unseen)\n"
    )
    done = call("train", "Unseen-v0", "--import", "unseen", "--steps", 200, "--out", "run", "--quiet")
    assert done.code == 0, done
    assert "rgb_array" in call("play", "run", "--video", "out.mp4").complaint
    assert not Path("out.mp4").exists()


def test_tiny_and_odd_frames_become_what_codecs_take() -> None:
    tiny = _video_frame(np.full((10, 10, 3), 0.5))
    assert tiny.shape == (240, 240, 3) and tiny.dtype == np.uint8 and (tiny == 127).all()
    odd = _video_frame(np.arange(301 * 401 * 3, dtype=np.uint64).reshape(301, 401, 3).astype(np.uint8))
    assert odd.shape == (302, 402, 3)
