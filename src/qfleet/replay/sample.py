"""What shards of a replay hand to learners: minibatches, and how likely each transition was drawn.

Shards are drawn from as one replay: every batch takes a part from each shard. In proportion to the shards' total
priorities (`proportional_parts`) the union is drawn as one sum tree over all of it would draw it; that needs the
totals, which lag a little and have to be rounded to whole transitions. So weights never assume it: they take what
each shard really gave, P(i) = (its part of the batch) * (priority / total of its shard), which is exact for equal
parts, for old totals, and for a shard that is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.replay.replay import Batch


@final
@dataclass(frozen=True)
class Drawn:
    """Which transitions of one shard a Sample holds, so that their priorities can be sent back to it."""

    shard: int
    """The shard's number."""
    incarnation: int
    """How often a shard of that number had been replaced."""
    pools: NDArray[np.int32]
    """(num_batches, part): the writers whose transitions they are."""
    rows: NDArray[np.int64]
    """(num_batches, part): their numbers in that pool, which are never given to others."""
    total: float
    """The shard's total priority when they were drawn; where all are alike, how many there were."""
    num_alive: int
    """Transitions in the shard when they were drawn."""

    @property
    def part(self) -> int:
        """Transitions of this shard in each batch."""
        return self.rows.shape[1]


@final
@dataclass(frozen=True)
class Sample:
    """Minibatches; each takes its transitions from the shards in the order of `drawn`."""

    observations: NDArray
    """(num_batches, 2 * batch, frame_stack * size): of each batch first those acted on, then the next ones."""
    next_action_masks: NDArray[np.bool_]
    """(num_batches, batch, num_actions), or (num_batches, batch, 0) where nothing is masked."""
    actions: NDArray[np.int32]
    """(num_batches, batch)"""
    rewards: NDArray[np.float32]
    """(num_batches, batch)"""
    discounts: NDArray[np.float32]
    """(num_batches, batch)"""
    priorities: NDArray[np.float64]
    """(num_batches, batch): what each was drawn in proportion to; 1 where all are alike."""
    drawn: tuple[Drawn, ...]
    """One for each shard."""

    @property
    def num_batches(self) -> int:
        """Minibatches."""
        return self.actions.shape[0]

    @property
    def batch_size(self) -> int:
        """Transitions in each."""
        return self.actions.shape[1]

    @property
    def num_alive(self) -> int:
        """Transitions in all the shards."""
        return sum(drawn.num_alive for drawn in self.drawn)

    def probabilities(self) -> NDArray[np.float64]:
        """(num_batches, batch): of each being drawn from the union of the shards, at any one place of a batch."""
        # A shard's part of the batch over its total: what a priority of 1 comes to there.
        scales = [drawn.part / self.batch_size / drawn.total for drawn in self.drawn]
        return self.priorities * np.repeat(scales, [drawn.part for drawn in self.drawn])

    def batches(self, importance_exponent: float) -> list[Batch]:
        """The minibatches with their weights, as views; `rows` are those of the shards, one after the other."""
        stacked = self.stacked(importance_exponent)
        return [Batch(*(part[number] for part in stacked)) for number in range(self.num_batches)]

    def stacked(self, importance_exponent: float) -> Batch:
        """The same as one, with an axis more in front of each array: (num_batches, ...)."""
        weights = importance_weights(self.probabilities(), self.num_alive, importance_exponent)
        rows = np.concatenate([drawn.rows for drawn in self.drawn], axis=1)
        return Batch(
            rows,
            self.observations,
            self.next_action_masks,
            self.actions,
            self.rewards,
            self.discounts,
            weights,
        )

    def split(self, td_errors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What of `td_errors` (num_batches, batch) belongs to each of `drawn`, (num_batches, part)."""
        ends = np.cumsum([drawn.part for drawn in self.drawn])
        return np.split(td_errors, ends[:-1], axis=1)


def importance_weights(
    probabilities: NDArray[np.float64], num_alive: int, importance_exponent: float
) -> NDArray[np.float32]:
    """(N P(i))^-beta over the largest of its batch; `probabilities` (num_batches, batch) of the union's N transitions.

    Schaul et al. 2016 (arXiv 1511.05952), section 3.4.
    """
    weights = (num_alive * probabilities) ** -importance_exponent
    return (weights / weights.max(axis=1, keepdims=True)).astype(np.float32)


def proportional_parts(batch_size: int, totals: Sequence[float]) -> list[int]:
    """How many of a batch's transitions each shard gives, in proportion to its total: whole numbers that add up.

    What is left after rounding down goes to those that lose most by it, the first of equals. A shard with nothing
    in it gives nothing. Raises QfleetError if all are empty.
    """
    amounts = np.asarray(totals, np.float64)
    if not amounts.sum() > 0:
        raise QfleetError("there is nothing to draw in any shard; append transitions first")
    exact = batch_size * amounts / amounts.sum()
    parts = np.floor(exact).astype(np.int64)
    most_lost = np.argsort(parts - exact, kind="stable")
    parts[most_lost[: batch_size - parts.sum()]] += 1
    return parts.tolist()


def concatenate(samples: Sequence[Sample]) -> Sample:
    """One Sample whose batch b is batch b of all of `samples`, one after the other; raises QfleetError if none fits.

    One sample is returned as it is, without a copy.
    """
    if not samples or len({sample.num_batches for sample in samples}) != 1:
        numbers = [sample.num_batches for sample in samples]
        raise QfleetError(
            f"samples of {numbers} batches cannot be put together; each must hold the same number"
        )
    if len(samples) == 1:
        return samples[0]
    return Sample(
        _joined_observations(samples),
        _joined([sample.next_action_masks for sample in samples]),
        _joined([sample.actions for sample in samples]),
        _joined([sample.rewards for sample in samples]),
        _joined([sample.discounts for sample in samples]),
        _joined([sample.priorities for sample in samples]),
        tuple(drawn for sample in samples for drawn in sample.drawn),
    )


def _joined(arrays: Sequence[NDArray]) -> NDArray:
    return np.concatenate(arrays, axis=1)


def _joined_observations(samples: Sequence[Sample]) -> NDArray:
    """All those acted on before all the next ones."""
    halves = [sample.observations.reshape(sample.num_batches, 2, sample.batch_size, -1) for sample in samples]
    joined = np.concatenate(halves, axis=2)
    return joined.reshape(len(joined), -1, joined.shape[-1])
