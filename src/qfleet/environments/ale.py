"""The engine `ale`: the Arcade Learning Environment's own vector environment, single grey 84x84 frames.

Rewards are unclipped, actions sticky as the id says, episodes end with the game and not with a life;
every episode starts with up to 30 no-ops, and with fire where the game waits for it.
"""

import os
from typing import Any

from qfleet.environments.atari import FRAME_STACK, NOOP_MAX, SCREEN
from qfleet.environments.registered import RegisteredEnvironment, make_registered
from qfleet.errors import QfleetError

OPTIONS = ("frameskip", "full_action_space", "max_num_frames_per_episode", "repeat_action_probability")


def make_ale(name: str, num_envs: int, options: dict[str, Any]) -> RegisteredEnvironment:
    """The engine for an id that starts with ALE/."""
    if not name.startswith("ALE/"):
        raise QfleetError(f"the engine ale runs Atari games (ALE/Pong-v5), not {name}; in-process does")
    strange = [key for key in options if key not in OPTIONS]
    if strange:
        raise QfleetError(
            f"the engine ale takes the options {', '.join(OPTIONS)}, not {strange[0]}; in-process takes it"
        )
    frames = {"stack_num": 1, "img_height": SCREEN, "img_width": SCREEN, "grayscale": True, "maxpool": True}
    starts = {"noop_max": NOOP_MAX, "use_fire_reset": True, "episodic_life": False, "reward_clipping": False}
    threads = {"num_threads": min(num_envs, os.cpu_count() or 1)}
    vector = make_registered(name, num_envs, {**frames, **starts, **threads, **options})
    return RegisteredEnvironment(vector, name, engine="ale", frame_stack=FRAME_STACK, takes_seeds=True)
