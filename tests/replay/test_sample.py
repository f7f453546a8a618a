"""Samples of several shards: parts, weights by hand, putting together and taking apart."""

import numpy as np
import pytest
from scipy import stats

from qfleet.errors import QfleetError
from qfleet.replay.sample import Sample, concatenate, importance_weights, proportional_parts
from qfleet.replay.shard import ReplayShard
from tests.replay.shards import block_of, make_shard

CHANCE = 1e-5


def test_weights_by_hand() -> None:
    """N = 8: N P = 0.5, 2, 4, 1; to the power -1/2: 1.414, 0.707, 0.5, 1; over the largest: 1, 0.5, 0.354, 0.707."""
    probabilities = np.array([[1 / 16, 1 / 4, 1 / 2, 1 / 8], [1 / 8, 1 / 8, 1 / 8, 1 / 8]])
    weights = importance_weights(probabilities, 8, 0.5)
    np.testing.assert_allclose(weights, [[1, 0.5, 8**-0.5, 2**-0.5], [1, 1, 1, 1]], rtol=1e-6)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(importance_weights(probabilities, 8, 0.0), 1)


@pytest.mark.parametrize(
    ("batch_size", "totals", "parts"),
    [
        (10, [1, 1], [5, 5]),
        (10, [3, 1], [8, 2]),  # 7.5 and 2.5: equal losses, the first of them
        (10, [1, 0, 2], [3, 0, 7]),
        (7, [1, 1, 1], [3, 2, 2]),
        (2, [0.1, 0.1, 5], [0, 0, 2]),
        (512, [1e-9, 1e9], [0, 512]),
    ],
)
def test_parts_are_in_proportion_and_add_up(batch_size: int, totals: list, parts: list) -> None:
    assert proportional_parts(batch_size, totals) == parts


def test_no_parts_of_nothing() -> None:
    with pytest.raises(QfleetError, match="nothing to draw in any shard"):
        proportional_parts(4, [0.0, 0.0])


def two_shards() -> tuple[ReplayShard, ReplayShard]:
    """Transitions 0 to 2 of priorities 1, 2, 3 in one; 3 and 4 of 4 and 10 in the other."""
    shards = make_shard(32, 2, 1.0, seed=1, shard=0), make_shard(32, 2, 1.0, seed=2, shard=1)
    shards[0].append(0, block_of(0, [0, 1, 2], [1, 2, 3]))
    shards[1].append(1, block_of(0, [3, 4], [4, 10]))
    return shards


def drawn_together(parts: tuple[int, int], num_batches: int) -> Sample:
    return concatenate(
        [shard.sample(num_batches, part, 0) for shard, part in zip(two_shards(), parts, strict=True)]
    )


def test_in_proportion_probabilities_are_those_of_one_tree() -> None:
    sample = drawn_together((6, 14), 5)
    priorities = np.array([1, 2, 3, 4, 10])
    np.testing.assert_allclose(sample.probabilities(), (priorities / 20)[sample.rewards.astype(int)])
    weights = (5 * priorities / 20.0)[sample.rewards.astype(int)] ** -0.4
    for batch, expected in zip(sample.batches(0.4), weights, strict=True):
        np.testing.assert_allclose(batch.weights, expected / expected.max(), rtol=1e-6)


def test_other_parts_are_weighed_by_what_they_are() -> None:
    """Equal parts: half of a batch from each, however much is in it. Weights at beta 1 undo any way of drawing."""
    sample = drawn_together((10, 10), 5)
    probability = np.array([1 / 12, 2 / 12, 3 / 12, 4 / 28, 10 / 28])
    np.testing.assert_allclose(sample.probabilities(), probability[sample.rewards.astype(int)])
    num_batches = 4000
    sample = drawn_together((1, 1), num_batches)
    np.testing.assert_allclose(sample.probabilities(), probability[sample.rewards.astype(int)])
    counts = np.bincount(sample.rewards.astype(int).ravel(), minlength=5)
    for own in (slice(0, 3), slice(3, 5)):
        expected = probability[own] * 2 * num_batches
        assert stats.chisquare(counts[own], expected).pvalue > CHANCE


def test_uniform_shards_of_one_size_are_not_weighted() -> None:
    shards = make_shard(32, 2), make_shard(32, 2)
    for shard in shards:
        shard.append(0, block_of(0, [0, 1, 2]))
    sample = concatenate([shard.sample(3, 4, 0) for shard in shards])
    assert all((batch.weights == 1).all() for batch in sample.batches(0.7))


def test_batches_are_views_of_both_shards_parts() -> None:
    sample = drawn_together((6, 14), 4)
    assert (sample.num_batches, sample.batch_size, sample.num_alive) == (4, 20, 5)
    assert (sample.rewards[:, :6] <= 2).all() and (sample.rewards[:, 6:] >= 3).all()
    for number, batch in enumerate(sample.batches(0.4)):
        assert np.shares_memory(batch.observations, sample.observations)
        np.testing.assert_array_equal(batch.observations[:20, 0], sample.rewards[number])
        np.testing.assert_array_equal(batch.observations[20:, 3], sample.rewards[number])
        np.testing.assert_array_equal(batch.rows[:6], sample.drawn[0].rows[number])
        np.testing.assert_array_equal(batch.rows[6:], sample.drawn[1].rows[number])
        assert batch.observations.flags.c_contiguous and batch.weights.max() == 1


def test_td_errors_go_back_to_where_they_belong() -> None:
    shards = two_shards()
    sample = concatenate([shards[0].sample(2, 6, 0), shards[1].sample(2, 14, 0)])
    errors = (sample.rewards + 1) ** 2  # 1, 4, 9; 16, 25
    for shard, drawn, own in zip(shards, sample.drawn, sample.split(errors), strict=True):
        assert own.shape == (2, drawn.part)
        assert shard.update_priorities(drawn, own) == 0
    assert shards[0].report().total == pytest.approx(14, rel=1e-5)
    assert shards[1].report().total == pytest.approx(41, rel=1e-5)
    assert [drawn.shard for drawn in sample.drawn] == [0, 1]


def test_one_sample_is_not_copied_and_unlike_ones_are_refused() -> None:
    first, second = two_shards()
    sample = first.sample(2, 4, 0)
    assert concatenate([sample]) is sample
    with pytest.raises(QfleetError, match=r"samples of \[2, 3\] batches"):
        concatenate([sample, second.sample(3, 4, 0)])
    with pytest.raises(QfleetError, match=r"samples of \[\] batches"):
        concatenate([])
