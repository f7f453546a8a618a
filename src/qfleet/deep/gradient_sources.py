"""What workers whose parameters are somebody else's compute gradients from: a replay, or rollouts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.deep.rollouts import Rollouts, explorer


@dataclass(frozen=True)
class Contribution:
    """What a worker did with the parameters it was given last."""

    num_steps: int = 0
    num_episodes: int = 0
    """That ended."""
    returns: tuple[float, ...] = ()
    """Theirs, or their mean return, once."""
    lengths: tuple[float, ...] = ()
    loss: float | None = None
    """What the gradient is of, if it is of one."""
    gradient: NDArray[np.floating] | None = None
    """(num_parameters,), or whatever moves them, (..., num_parameters)."""


class GradientSource(ABC):
    """One worker's environments and network."""

    @abstractmethod
    def start(self) -> None:
        """Begins the first episodes."""

    @abstractmethod
    def take(self, version: int, vector: NDArray[Any]) -> None:
        """Computes with these parameters (num_parameters,) from now on; `version` updates made them."""

    @abstractmethod
    def contribute(self, max_steps: int, progress: float) -> Contribution:
        """Acts, or computes a gradient, or both; `progress` of the whole run is 0 to 1. Raises NonFiniteError."""

    @abstractmethod
    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """Goes on in the place of a worker that had made so many steps, and owed so many gradients for them."""

    @abstractmethod
    def repeat(self, num_gradients: int) -> None:
        """So many gradients were lost; they are computed again where what they were of is still there."""

    @abstractmethod
    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """Everything further contributions depend on but the parameters."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""

    @abstractmethod
    def close(self) -> None:
        """Closes its environments."""


@final
class FollowingLearner:
    """A learner that takes parameters instead of making updates; its target network follows them."""

    def __init__(self, learner: Learner, initial: Parameters, config: DQNConfig) -> None:
        self.learner, self._every = learner, config.target_update_every_updates
        self.learner.warm_start(initial)
        self._moves = 0

    def take(self, version: int, vector: NDArray[np.float32]) -> None:
        """The target network moves once for every so many versions."""
        self.learner.set_parameters(Parameters(version, vector, self.learner.publish().buffers))
        moves = version // self._every
        if moves != self._moves:
            self._moves = moves
            self.learner.move_target()

    def take_over(self, parameters: Parameters) -> None:
        """Online and target network begin with these."""
        self.learner.warm_start(parameters)
        self._moves = parameters.version // self._every

    def save_state(self) -> dict[str, Any]:
        """Its target network, too."""
        return {"learner": self.learner.save_state(), "target_moves": self._moves}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self.learner.load_state(state["learner"])
        self._moves = state["target_moves"]


@final
class ReplayGradients(GradientSource):
    """Minibatches from a replay of its own, as many as are due for the steps it has made."""

    def __init__(self, run: NetworkRun, block_steps: int, rank: int, incarnation: int) -> None:
        seed, members, share = worker_seed(run.seed, rank, incarnation), run.members, run.share
        self._share, self._block_steps = share, block_steps
        self._actor = members.make_actor(share, seed, block_steps)
        self._replay = members.make_replay(share, block_steps)
        self._follower = FollowingLearner(members.make_learner(share, seed), run.initial, share)
        self._steps, self._number, self._num_extra = 0, 0, 0
        """The last: gradients that are due beyond those for its steps, less than none in a lost worker's place."""

    def start(self) -> None:
        """Begins the first episodes."""
        self._actor.start()

    def take(self, version: int, vector: NDArray[np.float32]) -> None:
        """The parameters."""
        self._follower.take(version, vector)

    def contribute(self, max_steps: int, progress: float) -> Contribution:
        """The gradient of a minibatch; if none is due, a block of steps."""
        due = self._share.updates_due(self._steps) + self._num_extra
        if due <= self._number or not len(self._replay):
            return self._act(max_steps)
        learner, view = self._follower.learner, self._replay.view()
        learner.num_updates = self._number  # which minibatch is drawn follows from it
        batch = learner.draw(view, self._share.importance_exponent_at(progress))
        found = learner.gradient(batch)
        learner.prioritize(view, batch, found.td_errors)
        self._number += 1
        return Contribution(loss=found.loss, gradient=found.vector)

    def _act(self, max_steps: int) -> Contribution:
        parameters = self._follower.learner.publish()
        gathered = self._actor.gather(parameters, min(max_steps, self._block_steps))
        self._replay.append(gathered.block)
        self._steps += gathered.num_steps
        lengths = tuple(map(float, gathered.lengths))
        return Contribution(gathered.num_steps, len(lengths), tuple(gathered.returns), lengths)

    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """Its replay is empty, and it learns once there is something in it."""
        self._follower.take_over(parameters)
        self._steps, self._num_extra = num_steps, num_owed - self._share.updates_due(num_steps)

    def repeat(self, num_gradients: int) -> None:
        """So many more are due."""
        self._num_extra += num_gradients

    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""
        return self._follower.learner.publish().buffers

    def save_state(self) -> dict[str, Any]:
        """Environments, replay and target network."""
        actor, block = self._actor.pause()
        self._replay.append(block)
        counts = {"steps": self._steps, "number": self._number, "extra": self._num_extra}
        replay = self._replay.save_state()
        return counts | self._follower.save_state() | {"actor": actor, "replay": replay}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._steps, self._number, self._num_extra = state["steps"], state["number"], state["extra"]
        self._actor.resume(state["actor"])
        self._replay.load_state(state["replay"])
        self._follower.load_state(state)

    def close(self) -> None:
        """Closes its environments."""
        self._actor.close()


@final
class RolloutGradients(GradientSource):
    """Rollouts, each of which is one minibatch: async-n-step where there is no memory to share."""

    def __init__(
        self, run: NetworkRun, rollout_steps: int, num_envs: int, rank: int, incarnation: int
    ) -> None:
        own = explorer(run, rank)
        seed = worker_seed(run.seed, rank, incarnation)
        self._rollouts = Rollouts(run.members, own, rollout_steps, num_envs, seed)
        self._follower = FollowingLearner(run.members.make_learner(own, seed), run.initial, own)

    def start(self) -> None:
        """Begins the first episodes."""
        self._rollouts.start()

    def take(self, version: int, vector: NDArray[np.float32]) -> None:
        """The parameters."""
        self._follower.take(version, vector)

    def contribute(self, max_steps: int, progress: float) -> Contribution:
        """A rollout, and the gradient of all its transitions."""
        gathered, batch = self._rollouts.gather(self._follower.learner, max_steps)
        found = None if batch is None else self._follower.learner.gradient(batch)
        return Contribution(
            gathered.num_steps,
            len(gathered.returns),
            tuple(gathered.returns),
            tuple(map(float, gathered.lengths)),
            None if found is None else found.loss,
            None if found is None else found.vector,
        )

    def take_over(self, parameters: Parameters, num_steps: int, num_owed: int) -> None:
        """It explores as after so many steps."""
        self._follower.take_over(parameters)
        self._rollouts.begin_at(num_steps)

    def repeat(self, num_gradients: int) -> None:
        """Nothing: rollouts are gone once they are learned from."""

    def buffers(self) -> dict[str, NDArray]:
        """What its module keeps beside the parameters."""
        return self._follower.learner.publish().buffers

    def save_state(self) -> dict[str, Any]:
        """Environments and target network."""
        return self._follower.save_state() | {"rollouts": self._rollouts.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._rollouts.load_state(state["rollouts"])
        self._follower.load_state(state)

    def close(self) -> None:
        """Closes its environments."""
        self._rollouts.close()
