"""What every deep learner offers, whichever way its network is run."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.exploration import epsilon_greedy
from qfleet.deep.networks import NetworkShape
from qfleet.deep.parameters import Parameters
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.replay.replay import Batch, ReplayView, draw, empty_batch, fill, update_priorities


@dataclass(frozen=True)
class Gradient:
    """What a minibatch says about the parameters; those of several learners may be averaged."""

    vector: NDArray[np.float32]
    """(num_parameters,), before it is scaled down to any norm."""
    loss: float
    td_errors: NDArray[np.float32]
    """(batch,): target - Q(s, a)."""


class Learner(ABC):
    """Improves a Q-network from minibatches."""

    def __init__(self, config: DQNConfig, shape: NetworkShape, num_mask_actions: int, seed: int) -> None:
        self.config, self.seed = config, seed
        self.num_updates = 0
        self._rule = config.rule()
        self._make_batch = partial(
            empty_batch,
            layout=shape.layout,
            frame_stack=shape.frame_stack,
            num_mask_actions=num_mask_actions,
        )
        self._batch = self._make_batch(config.batch_size)
        self._sums, self._num_summed = np.zeros(3), 0

    def learn(self, view: ReplayView, num_updates: int, importance_exponent: float) -> None:
        """Makes `num_updates` updates from the transitions in `view`.

        Raises NonFiniteError, with the values as they were before the update at fault, if its loss or
        gradient is not finite.
        """
        self._count(self._learn(view, num_updates, importance_exponent), num_updates)

    def _count(self, num_made: int, num_asked: int) -> None:
        """Of a block of updates; NonFiniteError if it ended early."""
        self.num_updates += num_made
        self._num_summed += num_made
        if num_made < num_asked:
            raise self._not_finite()

    def gradient(self, batch: Batch) -> Gradient:
        """The gradient of a minibatch brought from elsewhere, of any size; raises NonFiniteError."""
        gradient = self._gradient(batch)
        if not np.isfinite(gradient.loss):
            raise self._not_finite()
        return gradient

    def apply(self, gradient: Gradient) -> None:
        """Makes one update with a gradient; raises NonFiniteError, with the values as they were."""
        norm = self._apply(gradient.vector, self.num_updates + 1)
        self._note_update(gradient.loss, gradient.td_errors, norm)

    def _note_update(self, loss: float, td_errors: NDArray[np.float32], norm: float) -> None:
        """Of one made alone; NonFiniteError if it was not made, as the gradient's norm is not finite."""
        if not np.isfinite(norm):
            raise self._not_finite()
        self.num_updates += 1
        self._num_summed += 1
        self._sums += (loss, np.mean(np.abs(td_errors), dtype=np.float64), norm)

    def draw(self, view: ReplayView, importance_exponent: float) -> Batch:
        """The minibatch of the next update, as `learn` draws it; valid until the next call."""
        draw(view, self.seed, self.num_updates + 1, importance_exponent, self._batch)
        return self._batch

    def newest(self, view: ReplayView, num: int) -> Batch:
        """The `num` transitions of `view` that came last, oldest first, all of weight 1."""
        batch = self._make_batch(num)
        batch.rows[:] = np.arange(view.end - num, view.end)
        fill(view, batch)
        return batch

    def prioritize(self, view: ReplayView, batch: Batch, td_errors: NDArray[np.float32]) -> None:
        """Gives what was drawn from `view` the priorities of its new TD errors (batch,)."""
        rule = self._rule
        update_priorities(view, batch.rows, td_errors, rule.priority_exponent, rule.priority_floor)

    def learn_batch(self, batch: Batch) -> NDArray[np.float32]:
        """Makes one update from a minibatch brought from elsewhere; its TD errors (batch,)."""
        gradient = self.gradient(batch)
        self.apply(gradient)
        return gradient.td_errors

    def learn_batches(self, batches: Batch) -> NDArray[np.float32]:
        """The same from each of some minibatches in turn: their arrays have one more axis in front.

        Returns the TD errors (num_batches, batch).
        """
        numbers = range(len(batches.actions))
        return np.array([self.learn_batch(Batch(*(part[number] for part in batches))) for number in numbers])

    @property
    def gpu(self) -> str:
        """What no other GPU is called, if the network is on one; otherwise nothing."""
        return ""

    def use_threads(self, num_threads: int) -> None:
        """From now on so many threads make each update of `learn_batches` together, a part of the minibatch each.

        The same updates up to rounding. Raises QfleetError where there cannot be so many.
        """
        if num_threads != 1:
            raise QfleetError(
                f"{num_threads} threads of a learner are for compiled networks; PyTorch's takes 1, and shares out "
                "its products by itself"
            )

    def _not_finite(self) -> NonFiniteError:
        return NonFiniteError(
            f"the loss or gradient of update {self.num_updates + 1} is not finite; the values are as before it. "
            "A smaller --learning-rate, or a --reward-limit, usually helps"
        )

    @abstractmethod
    def _learn(self, view: ReplayView, num_updates: int, importance_exponent: float) -> int:
        """Makes the updates and returns how many were made before one was not finite."""

    @abstractmethod
    def _gradient(self, batch: Batch) -> Gradient:
        """The gradient of the batch's loss, finite or not."""

    @abstractmethod
    def _apply(self, gradient: NDArray[np.float32], number: int) -> float:
        """Makes update `number`, unless the gradient's norm, which is returned, is not finite."""

    @abstractmethod
    def publish(self) -> Parameters:
        """A copy of the parameters, to act with."""

    @abstractmethod
    def set_parameters(self, parameters: Parameters) -> None:
        """Goes on from these; the target network and the optimizer stay as they are."""

    @abstractmethod
    def move_target(self) -> None:
        """Moves the target network towards the online one, as far as the settings say."""

    @abstractmethod
    def share(self, vectors: NDArray[np.float32]) -> None:
        """From now on learns in memory that others learn in too, as it stands: (4, num_parameters), C-contiguous.

        Parameters, target network, and the optimizer's two moments. Raises QfleetError where the network is not in the
        host's memory.
        """

    @abstractmethod
    def warm_start(self, parameters: Parameters) -> None:
        """Begins from another run's parameters, the target network too; raises QfleetError for another network's."""

    @abstractmethod
    def policy(self) -> "Policy":
        """A network of the same shape to act with; give it parameters first."""

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """Everything that further updates depend on, but for the counters."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `save_state` returned."""

    def take_statistics(self) -> dict[str, float]:
        """Means since the last call of loss, |TD error| and gradient norm; empty if no update was made."""
        if self._num_summed == 0:
            return {}
        means = self._sums / self._num_summed
        self._sums[:], self._num_summed = 0, 0
        return {
            "train/loss": float(means[0]),
            "train/td_error": float(means[1]),
            "train/gradient_norm": float(means[2]),
        }


class Policy(ABC):
    """A network that only acts."""

    @abstractmethod
    def load(self, parameters: Parameters) -> None:
        """Acts with these from now on (copied)."""

    @abstractmethod
    def values(self, observations: NDArray) -> NDArray[np.float32]:
        """Q (num, num_actions) of stacked observations (num, frame_stack * size)."""

    def act(
        self, observations: NDArray, masks: NDArray[np.bool_], epsilon: float, seed: int, counter: int
    ) -> NDArray[np.int64]:
        """Actions (num,), random with probability epsilon; masks (num, num_actions) or (num, 0)."""
        actions = np.empty(len(observations), np.int64)
        epsilon_greedy(self.values(observations), masks, epsilon, seed, counter, actions)
        return actions
