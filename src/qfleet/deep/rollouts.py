"""Rollouts: a worker's environments, learned from a few steps at a time, with no replay.

All steps of a rollout become transitions when it ends, with returns of different lengths: of T steps in an
environment the first gets a T-step return, the last a one-step return, and all bootstrap from the last observation
(the forward view of Mnih et al. 2016, arXiv 1602.01783, algorithm S2). An episode's end shortens them as it does
elsewhere.
"""

from dataclasses import replace
from typing import Any, NamedTuple, final

import numpy as np

from qfleet.deep.actor import Gathered
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.members import Members, NetworkRun
from qfleet.replay.replay import Batch

FINAL_EPSILONS = (0.1, 0.01, 0.5)
EPSILON_PROBABILITIES = (0.4, 0.3, 0.3)
"""Mnih et al. 2016, section 5.1."""


def final_epsilon(seed: int, rank: int) -> float:
    """The probability of a random action that a worker's exploration falls to, drawn from the paper's mixture."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0x65707369, rank]))
    return float(generator.choice(FINAL_EPSILONS, p=EPSILON_PROBABILITIES))


def explorer(run: NetworkRun, rank: int) -> DQNConfig:
    """The settings of one worker, whose exploration falls to a rate of its own."""
    return replace(run.share, exploration_final=final_epsilon(run.seed, rank))


class Rollout(NamedTuple):
    """What one rollout brought."""

    gathered: Gathered
    batch: Batch | None
    """All its transitions, valid until the next rollout; None if there is none."""


@final
class Rollouts:
    """Owns an actor, and the frames of the latest rollouts, which stacked observations reach back into."""

    def __init__(
        self, members: Members, config: DQNConfig, rollout_steps: int, num_envs: int, seed: int
    ) -> None:
        """`config` is that of this worker; its n_step is `rollout_steps`, and of its replay nothing is used."""
        block_steps = rollout_steps * num_envs
        own = replace(
            config, n_step=rollout_steps, batch_size=1, replay_capacity=2 * block_steps, priority_exponent=0.0
        )
        self._actor = members.make_actor(own, seed, block_steps)
        self._window = members.make_replay(own, block_steps)

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def begin_at(self, num_steps: int) -> None:
        """A worker that takes another's place explores as that one would after `num_steps` steps."""
        self._actor.num_steps = num_steps

    def gather(self, learner: Learner, max_steps: int) -> Rollout:
        """Acts for a rollout with the learner's parameters; at most `max_steps` steps, but for the last vector step."""
        gathered = self._actor.gather(learner.publish(), max_steps, settle=True)
        self._window.append(gathered.block)
        num = len(gathered.block.transitions["frame"])
        return Rollout(gathered, learner.newest(self._window.view(), num) if num else None)

    def save_state(self) -> dict[str, Any]:
        """Environments, exploration and frames."""
        actor, block = self._actor.pause()
        self._window.append(block)
        return {"actor": actor, "window": self._window.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._actor.resume(state["actor"])
        self._window.load_state(state["window"])

    def close(self) -> None:
        """Closes the environments."""
        self._actor.close()
