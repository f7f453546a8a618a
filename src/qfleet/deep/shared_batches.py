"""A minibatch that several learners share: the part of each, and what their gradients come to together."""

from collections.abc import Sequence

import numpy as np

from qfleet.deep.learner import Gradient
from qfleet.replay.replay import Batch
from qfleet.tabular.merging import bounds_of


def part_of(batch: Batch, part: int, num_parts: int) -> Batch:
    """One of `num_parts` pieces of a minibatch, copied; their sizes differ by one at most. Weights stay as they are."""
    first, last = bounds_of(len(batch.actions), num_parts)[part : part + 2]
    pieces = {name: column[first:last].copy() for name, column in batch._asdict().items()}
    acted_on, following = np.split(batch.observations, 2)
    pieces["observations"] = np.concatenate([acted_on[first:last], following[first:last]])
    return Batch(**pieces)


def mean_gradient(gradients: Sequence[Gradient]) -> Gradient:
    """That of the whole minibatch, from those of all its parts, in their order.

    Each counts for as many transitions as it is of; TD errors are put together, (batch,). The same parts give the same
    bits, wherever that is.
    """
    num_all = sum(len(gradient.td_errors) for gradient in gradients)
    vector, loss = np.zeros_like(gradients[0].vector), 0.0
    for gradient in gradients:
        share = len(gradient.td_errors) / num_all
        vector += np.float32(share) * gradient.vector
        loss += share * gradient.loss
    return Gradient(vector, loss, np.concatenate([gradient.td_errors for gradient in gradients]))
