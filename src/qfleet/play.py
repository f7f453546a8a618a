"""Watching an agent: its greedy episodes in a window, or written as a video."""

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.agent import Agent
from qfleet.environments.identifiers import find_spec, missing_package
from qfleet.environments.making import make_single
from qfleet.environments.single import EnvironmentSource, SingleEnvironment
from qfleet.errors import QfleetError
from qfleet.run import Run
from qfleet.sources import gymnasium_source, is_world, source_name, world_of
from qfleet.states.config import StatesConfig

_DEFAULT_FRAMES_PER_SECOND = 30
_LEAST_SIDE = 240
"""Smaller frames, as of MinAtar, are enlarged to at least this many pixels."""

Show = Callable[[Any], None]


def play(run: Run, episodes: int = 1, seed: int | None = None, video: Path | None = None) -> list[float]:
    """Plays greedy episodes in a window, or writes them to `video` (.mp4), and returns their returns.

    Raises QfleetError where there is no display, the environment cannot be drawn, or a package is missing.
    """
    if video is None:
        _check_display(run)
    elif video.suffix != ".mp4":
        raise QfleetError(f"--video {video}: the name should end in .mp4")
    elif not video.absolute().parent.is_dir():
        raise QfleetError(f"--video {video}: there is no folder {video.absolute().parent}")
    with ExitStack() as stack:
        if video is not None:
            # Environments that draw with pygame need no screen for it.
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        settings = run.problem.settings
        mode = "human" if video is None else "rgb_array"
        with warnings.catch_warnings():
            # Gymnasium warns of the mode that it does not have; make_single says the same as an error.
            warnings.simplefilter("ignore")
            single = make_single(_drawable(run), settings.environments, mode)
        stack.callback(single.env.close)
        show = _nothing if video is None else _video_writer(video, single, stack)
        return _drawn(
            run.agent(), single, _episode_seeds(episodes, seed), settings.run.max_evaluation_steps, show
        )


def _drawable(run: Run) -> EnvironmentSource:
    """What Gymnasium can draw; raises QfleetError for worlds, which have no picture."""
    source = run.problem.source
    if is_world(source) or (isinstance(source, str) and _is_known_world(source)):
        raise QfleetError(
            f"{source_name(source)} is a world, of which there is nothing to draw; qfleet evaluate {run.path} works"
        )
    return gymnasium_source(run.problem.source, run.problem.settings.run.algorithm)


def _is_known_world(name: str) -> bool:
    return find_spec(name) is None and world_of(name, StatesConfig()) is not None


def _check_display(run: Run) -> None:
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in names):
        raise _no_display(run)


def _no_display(run: Run) -> QfleetError:
    return QfleetError(
        f"there is no display to open a window on; qfleet play {run.path} --video out.mp4 works"
    )


def _nothing(env: Any) -> None:
    """A window draws itself at every step."""


def _episode_seeds(episodes: int, seed: int | None) -> list[int]:
    sequence = np.random.SeedSequence(seed)
    return [int(state) for state in sequence.generate_state(episodes)]


def _drawn(
    agent: Agent, single: SingleEnvironment, seeds: list[int], max_steps: int, show: Show
) -> list[float]:
    """Plays, and gives the reasons why nothing can be drawn in one line."""
    try:
        return [_episode(agent, single, seed, max_steps, show) for seed in seeds]
    except (QfleetError, OSError):
        raise
    except Exception as error:
        name = type(error).__name__
        if isinstance(error, ImportError) or name == "DependencyNotInstalled":
            raise missing_package(error, f"drawing {single.name}") from error  # pyright: ignore[reportArgumentType]
        if type(error).__module__.partition(".")[0] == "pygame":
            raise QfleetError(
                f"the window cannot be opened ({error}); --video out.mp4 needs no display"
            ) from error
        raise


def _episode(agent: Agent, single: SingleEnvironment, seed: int, max_steps: int, show: Show) -> float:
    env, total = single.env, 0.0
    agent.reset()
    observation, info = env.reset(seed=seed)
    show(env)
    for _ in range(max_steps):
        action = agent.act(observation, info.get("action_mask"))
        observation, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        show(env)
        if terminated or truncated:
            break
    return total


def _video_writer(video: Path, single: SingleEnvironment, stack: ExitStack) -> Show:
    if importlib.util.find_spec("imageio") is None or importlib.util.find_spec("imageio_ffmpeg") is None:
        raise QfleetError('a video needs a package that is not installed: pip install "qfleet[play]"')
    import imageio.v2 as imageio

    frames_per_second = single.env.metadata.get("render_fps") or _DEFAULT_FRAMES_PER_SECOND
    writer: Any = stack.enter_context(
        imageio.get_writer(str(video), format="FFMPEG", fps=frames_per_second, macro_block_size=2)  # pyright: ignore[reportArgumentType]
    )

    def show(env: Any) -> None:
        writer.append_data(_video_frame(env.render()))

    return show


def _video_frame(frame: Any) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 with even sides, which the codec asks for, and enlarged if it is tiny."""
    array = np.asarray(frame)
    if array.dtype != np.uint8:
        array = np.clip(array * 255, 0, 255).astype(np.uint8)
    scale = max(1, -(-_LEAST_SIDE // max(array.shape[:2])))
    array = array.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)), mode="edge")
