"""Ape-X's learners: one makes all updates of a sample in one call; several share every minibatch.

    every learner k:
        the sample of all shards comes; begin with the gradient of part k of its first minibatch
        when the gradients of all parts come: the update of their mean; the gradient of part k of the next minibatch

All make the same updates, with the mean gradient and an optimizer of their own, so that networks and moments stay
equal, bit for bit, without being sent (synchronous: Chen et al. 2016, arXiv 1604.00981).
"""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.learner import Gradient
from qfleet.deep.members import NetworkRun, worker_seed
from qfleet.deep.parameters import Parameters
from qfleet.deep.shared_batches import mean_gradient, part_of
from qfleet.replay.replay import Batch
from qfleet.replay.sample import Sample, concatenate
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import Learned, learn_sample, learned_from


@final
class ApeXLearner:
    """The network and its optimizer; the first learner's is the one that is published."""

    def __init__(
        self, run: NetworkRun, config: ApeXConfig, board: ParameterBoard, number: int, incarnation: int
    ) -> None:
        self._config, self._board, self._number, self._published = config, board, number, 0
        # What a module draws (dropout) is each one's own, as its part of a minibatch is.
        self._learner = run.members.make_learner(run.config, worker_seed(run.seed, number))
        self._learner.use_threads(config.learner_threads)
        self._learner.warm_start(run.initial)
        self._sample: Sample | None = None
        self._parts: Iterator[Batch] = iter(())
        """Its parts of the sample's minibatches that are still to come."""
        self._td_errors: list[NDArray[np.float32]] = []
        """Of the sample's minibatches that were learned from, (batch,) each."""

    def start(self) -> None:
        """There is nothing to begin."""

    def answer(self) -> None:
        """It is there."""

    def learn(self, importance_exponent: float, *samples: Sample | None) -> Learned:
        """Alone: an update from every minibatch of all shards."""
        sample = _joined(samples)
        if sample is None:
            return Learned(0, self._learner.num_updates)
        learned = learn_sample(self._learner, sample, importance_exponent)
        self._publish_if_due()
        return learned

    def begin(self, importance_exponent: float, *samples: Sample | None) -> Gradient | None:
        """Takes a sample; the gradient of its part of the first minibatch, or None if there is nothing in it."""
        self._sample, self._td_errors = _joined(samples), []
        if self._sample is None:
            return None
        parts = self._number, self._config.num_learners
        self._parts = (part_of(batch, *parts) for batch in self._sample.batches(importance_exponent))
        return self._learner.gradient(next(self._parts))

    def go_on(self, *gradients: Gradient | None) -> Gradient | None:
        """Makes the update of all parts; the gradient of its part of the next minibatch."""
        self._update(gradients)
        return None if self._sample is None else self._learner.gradient(next(self._parts))

    def finish(self, *gradients: Gradient | None) -> Learned:
        """Makes the sample's last update; what was made of it."""
        self._update(gradients)
        sample, self._sample, self._parts = self._sample, None, iter(())
        if sample is None:
            return Learned(0, self._learner.num_updates)
        return learned_from(self._learner, sample, self._td_errors)

    def _update(self, gradients: tuple[Gradient | None, ...]) -> None:
        found = [gradient for gradient in gradients if gradient is not None]
        if not found:
            return
        mean = mean_gradient(found)
        self._learner.apply(mean)
        self._td_errors.append(mean.td_errors)
        self._publish_if_due()

    def _publish_if_due(self) -> None:
        if self._learner.num_updates - self._published >= self._config.publish_every_updates:
            self._publish()

    def _publish(self) -> None:
        """The first one does; the others have the same."""
        self._published = self._learner.num_updates
        if self._number == 0:
            self._board.publish(self._learner.publish())

    def parameters(self) -> Parameters:
        """The network's."""
        return self._learner.publish()

    def set_parameters(self, parameters: Parameters) -> None:
        """Begins from these."""
        self._learner.warm_start(parameters)
        self._publish()

    def statistics(self) -> dict[str, float]:
        """Means since the last call."""
        return self._learner.take_statistics()

    def save_state(self) -> dict[str, Any]:
        """All of it."""
        return {"updates": self._learner.num_updates, "learner": self._learner.save_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse; the board shows it at once."""
        self._learner.num_updates = state["updates"]
        self._learner.load_state(state["learner"])
        self._publish()

    def close(self) -> None:
        """There is nothing to free."""


def _joined(samples: tuple[Sample | None, ...]) -> Sample | None:
    found = [sample for sample in samples if sample is not None]
    return concatenate(found) if found else None
