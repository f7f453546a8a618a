"""A shard is one replay: what is drawn, whose priorities change, what a restart and a checkpoint keep."""

import pickle
from collections import Counter
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
from gymnasium.envs.registration import registry
from scipy import stats

from qfleet.backends.processes import ProcessFleet
from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.memory import available_memory_bytes
from qfleet.replay.recorder import Recorder
from qfleet.replay.sample import Drawn, Sample
from qfleet.replay.shard import ReplayShard
from tests.environments.scripted import register_scripted
from tests.replay.scalar_truth import DISCOUNT, Stored, drive, truth
from tests.replay.shards import LAYOUT, block_of, make_shard

if "Scripted-v0" not in registry:
    register_scripted()

CHANCE = 1e-5
NUM_DRAWS = 40_000


def unequal(exponent: float) -> tuple[ReplayShard, np.ndarray]:
    """Pools of 40, 0, 5 and 23 transitions, whose rewards are 0, 1, 2, … in order; and their priorities."""
    shard = make_shard(4 * 40, 4, exponent)
    random, value, priorities = np.random.default_rng(1), 0, []
    for writer, num in ((0, 40), (2, 5), (3, 23)):
        for first in range(0, num, 8):
            size = min(8, num - first)
            given = random.exponential(size=size)
            shard.append(writer, block_of(first, list(range(value, value + size)), given.tolist()))
            value += size
            priorities += given.tolist()
    return shard, np.array(priorities)


def counts_of(sample: Sample, num: int) -> np.ndarray:
    return np.bincount(sample.rewards.ravel().astype(int), minlength=num)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_union_is_drawn_from_as_one(exponent: float) -> None:
    """One a batch, so that draws are independent; the chance of each transition is that of one flat replay."""
    shard, priorities = unequal(exponent)
    assert len(shard) == len(priorities) == 68 == shard.report().num_alive
    probability = priorities / priorities.sum() if exponent else np.full(68, 1 / 68)
    sample = shard.sample(NUM_DRAWS, 1, 0)
    counts, expected = counts_of(sample, 68), probability * NUM_DRAWS
    enough = expected > 5
    assert enough.sum() > 50
    pooled = (
        np.append(counts[enough], counts[~enough].sum()),
        np.append(expected[enough], expected[~enough].sum()),
    )
    used = pooled[1] > 0
    assert stats.chisquare(pooled[0][used], pooled[1][used]).pvalue > CHANCE
    np.testing.assert_allclose(sample.probabilities()[:, 0], probability[sample.rewards[:, 0].astype(int)])


def test_a_batch_is_stratified_over_the_union() -> None:
    """Of 100 slices, a pool with a share s of all priority gets 100 s, give or take the slices at its borders."""
    shard, priorities = unequal(1.0)
    shares = (
        np.array([priorities[:40].sum(), 0, priorities[40:45].sum(), priorities[45:].sum()])
        / priorities.sum()
    )
    sample = shard.sample(50, 100, 7)
    for pools in sample.drawn[0].pools:
        assert (np.abs(np.bincount(pools, minlength=4) - 100 * shares) <= 2).all()


def test_what_is_drawn_is_what_was_written() -> None:
    shard, priorities = unequal(1.0)
    sample = shard.sample(3, 64, 2)
    drawn, values = sample.drawn[0], sample.rewards.astype(int)
    assert sample.observations.shape == (3, 128, 4)
    for half in (sample.observations[:, :64], sample.observations[:, 64:]):
        np.testing.assert_array_equal(half, np.repeat(sample.rewards[:, :, None], 4, axis=2))
    np.testing.assert_array_equal(sample.actions, values % 7)
    np.testing.assert_array_equal(sample.priorities, priorities[values])
    begin = np.array([0, 40, 40, 45])
    np.testing.assert_array_equal(values, begin[drawn.pools] + drawn.rows)
    assert (sample.discounts == 0.5).all() and sample.next_action_masks.shape == (3, 64, 0)
    assert drawn.total == pytest.approx(priorities.sum()) and drawn.num_alive == 68
    assert shard.report().sampled == 3 * 64 and shard.report().inserted == 68


def test_draws_follow_from_the_counter_alone() -> None:
    shard, _ = unequal(1.0)
    both = shard.sample(2, 16, 30)
    first, second = shard.sample(1, 16, 30), shard.sample(1, 16, 31)
    np.testing.assert_array_equal(both.rewards, np.concatenate([first.rewards, second.rewards]))
    assert (first.rewards != second.rewards).any()


def test_late_priorities_do_not_reach_the_transition_in_the_same_place() -> None:
    shard = make_shard(2 * 8, 2, 1.0)
    shard.append(0, block_of(0, list(range(8)), [1.0] * 8))
    drawn = Drawn(0, 0, np.zeros((1, 3), np.int32), np.array([[0, 5, 7]]), 8.0, 8)
    shard.append(0, block_of(8, [10, 11, 12], [2.0] * 3))  # in the places of 0, 1, 2
    assert shard.update_priorities(drawn, np.array([[50.0, 30.0, 40.0]], np.float32)) == 1
    sample = shard.sample(200, 8, 0)
    found = dict(zip(sample.rewards.ravel().tolist(), sample.priorities.ravel().tolist(), strict=True))
    wanted = {3: 1.0, 4: 1.0, 5: 30.0, 6: 1.0, 7: 40.0, 10: 2.0, 11: 2.0, 12: 2.0}
    assert found == {value: pytest.approx(priority, rel=1e-5) for value, priority in wanted.items()}
    assert shard.report().late_priorities == 1
    assert shard.report().total == pytest.approx(sum(wanted.values()), rel=1e-5)


def test_priorities_for_a_shard_that_was_replaced_are_dropped() -> None:
    shard = make_shard(16, 2, 1.0, incarnation=1)
    shard.append(1, block_of(0, [1.0, 2.0]))
    drawn = shard.sample(1, 4, 0).drawn[0]
    assert drawn.incarnation == 1
    before = Drawn(0, 0, drawn.pools, drawn.rows, drawn.total, drawn.num_alive)
    assert shard.update_priorities(before, np.full((1, 4), 9, np.float32)) == 4
    assert shard.report().total == 2
    assert shard.update_priorities(drawn, np.full((1, 4), 9, np.float32)) == 0
    assert shard.report().total == pytest.approx(18)


def test_no_priority_is_made_of_what_is_not_finite() -> None:
    shard = make_shard(16, 2, 1.0)
    shard.append(0, block_of(0, [1.0, 2.0]))
    with pytest.raises(NonFiniteError, match="TD error"):
        shard.update_priorities(shard.sample(1, 2, 0).drawn[0], np.array([[1.0, np.nan]], np.float32))
    assert shard.report().total == 2


def test_without_priorities_of_their_own_new_ones_get_the_largest_of_all_pools() -> None:
    shard = make_shard(16, 2, 1.0)
    shard.append(0, block_of(0, [0.0, 1.0], [0.25, 6.0]))
    shard.append(1, block_of(0, [2.0]))
    sample = shard.sample(50, 8, 0)
    assert set(sample.priorities[sample.rewards == 2]) == {6.0}
    assert set(sample.priorities[sample.rewards == 0]) == {0.25}


def test_a_uniform_shard_draws_alike_whatever_the_td_errors() -> None:
    shard = make_shard(16, 2)
    shard.append(0, block_of(0, [0.0, 1.0], [1.0, 1e9]))
    drawn = shard.sample(1, 64, 0)
    assert shard.update_priorities(drawn.drawn[0], np.arange(64, dtype=np.float32)[None]) == 0
    assert (shard.sample(1, 64, 0).priorities == 1).all() and shard.report().total == 2


def test_a_new_writer_goes_on_in_the_place_of_a_lost_one() -> None:
    """It counts from 0 again; what the lost one wrote is drawn until its places are needed."""
    shard = make_shard(2 * 8, 2)
    shard.append(0, block_of(0, [0, 1, 2, 3, 4]))
    shard.append(1, block_of(0, [100.0]))
    shard.restart_writer(0)
    shard.append(0, block_of(0, [10, 11]))
    assert values_in(shard) == {0, 1, 2, 3, 4, 10, 11, 100}
    shard.append(0, block_of(2, [12, 13, 14]))
    assert values_in(shard) == {2, 3, 4, 10, 11, 12, 13, 14, 100}
    for first in range(5, 45, 8):
        shard.append(0, block_of(first, list(range(200 + first, 208 + first))))
    assert values_in(shard) == {*range(237, 245), 100}


def values_in(shard: ReplayShard) -> set[int]:
    sample = shard.sample(20, 64, 3)
    np.testing.assert_array_equal(sample.observations[:, :64, 0], sample.rewards)
    return set(sample.rewards.astype(int).ravel().tolist())


@pytest.mark.parametrize("first", [0, 8, 4])
def test_a_block_that_is_missing_or_comes_twice_is_refused(first: int) -> None:
    shard = make_shard(64, 2)
    shard.append(1, block_of(0, [1, 2, 3]))
    with pytest.raises(QfleetError, match=f"writer 1 sent frames from number {first} on where 3 was to come"):
        shard.append(1, block_of(first, [4, 5]))
    assert len(shard) == 3


def test_the_capacity_is_that_of_all_pools_together() -> None:
    shard, one = make_shard(8 * 16, 8, 0.6), make_shard(8 * 16, 1, 0.6)
    for writer in range(8):
        for first in range(0, 160, 8):
            shard.append(writer, block_of(first, [0.0] * 8))
    assert len(shard) == 8 * 16 and shard.report().inserted == 8 * 160
    # Beyond the transitions' share only what each ring of frames keeps free costs memory.
    assert one.memory_bytes <= shard.memory_bytes < one.memory_bytes + 8 * 100 * 24


def test_too_small_for_its_writers_is_refused() -> None:
    with pytest.raises(QfleetError, match=r"31, 7 for each of 4 actors.* at least 32"):
        make_shard(31, 4)
    make_shard(32, 4)


def test_too_large_for_the_machine_is_refused_before_memory_is_taken() -> None:
    """A pool of it would fit, all of them do not: the line is about all, so the first pool was not made either."""
    capacity = available_memory_bytes() // 40  # each transition needs more bytes than that
    with pytest.raises(QfleetError, match=f"a replay of {capacity // 8 * 8:,} transitions needs"):
        make_shard(capacity, 8)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(QfleetError, match="nothing to draw"):
        make_shard(64, 2).sample(1, 4, 0)


def test_stale_rows_cannot_be_read() -> None:
    shard = make_shard(16, 2)
    shard.append(1, block_of(0, [0, 1, 2, 3, 4]))
    shard.append(1, block_of(5, [5, 6, 7, 8, 9]))
    assert shard.streams()["1/transitions"] == (2, 10)
    np.testing.assert_array_equal(shard.read("1/transitions", 3, 6)["reward"], [3, 4, 5])
    for first, last in ((1, 4), (8, 11), (6, 5)):
        with pytest.raises(QfleetError, match="2 to 10 are held"):
            shard.read("1/transitions", first, last)


def refilled(shard: ReplayShard, exponent: float) -> ReplayShard:
    """A new shard from another's streams, read in pieces, and state."""
    restored = make_shard(4 * 40, 4, exponent)
    for name, (first, last) in shard.streams().items():
        for start in range(first, last, 7):
            stop = min(start + 7, last)
            restored.refill(name, start, shard.read(name, start, stop))
    restored.load_state(deepcopy(shard.save_state()))
    return restored


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_saved_and_loaded_it_goes_on_bit_by_bit(exponent: float) -> None:
    shard, _ = unequal(exponent)
    for first in range(40, 88, 8):
        shard.append(0, block_of(first, list(range(first, first + 8))))
    shard.restart_writer(3)
    restored = refilled(shard, exponent)
    assert restored.report() == shard.report()
    for turn in range(4):
        samples = [one.sample(2, 32, turn) for one in (shard, restored)]
        first, second = (pickle.dumps(sample) for sample in samples)
        assert first == second
        errors = np.random.default_rng(turn).normal(size=(2, 32)).astype(np.float32)
        for one, sample in zip((shard, restored), samples, strict=True):
            one.update_priorities(sample.drawn[0], errors)
            one.append(3, block_of(8 * turn, [turn] * 8))
    assert restored.report() == shard.report()


def test_rows_are_put_back_in_order() -> None:
    shard, _ = unequal(0.0)
    rows = shard.read("0/transitions", 5, 8)
    restored = make_shard(4 * 40, 4)
    restored.refill("0/transitions", 5, rows)
    with pytest.raises(QfleetError, match="goes on with row 8, not 9"):
        restored.refill("0/transitions", 9, rows)


def test_masks_of_next_observations_are_drawn() -> None:
    shard = make_shard(64, 2, num_mask_actions=3)
    block, masks = block_of(0, [0, 1, 2]), np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]], np.bool_)
    block.frames["action_mask"] = masks
    shard.append(1, block)
    sample = shard.sample(2, 32, 0)
    np.testing.assert_array_equal(sample.next_action_masks, masks[sample.rewards.astype(int)])


def test_it_is_made_in_another_process() -> None:
    fleet = ProcessFleet()
    try:
        handle = fleet.start("a shard", partial(make_shard, 64, 2, 1.0))
        report = handle.call("append", 1, block_of(0, [3.0, 4.0], [1.0, 3.0])).result(60)
        sample = handle.call("sample", 2, 8, 0).result(60)
    finally:
        fleet.close()
    assert report.num_alive == 2 and report.total == 4
    here = make_shard(64, 2, 1.0)
    here.append(1, block_of(0, [3.0, 4.0], [1.0, 3.0]))
    np.testing.assert_array_equal(sample.rewards, here.sample(2, 8, 0).rewards)
    assert sample.observations.dtype == LAYOUT.dtype


def stored_in(shard: ReplayShard) -> set[Stored]:
    """Everything in a uniform shard of a few hundred transitions: 40 draws of each on average."""
    size = len(shard)
    sample = shard.sample(40, size, 11)
    observations, following = sample.observations[:, :size], sample.observations[:, size:]
    return {
        Stored(
            tuple(observations[place].tolist()),
            int(sample.actions[place]),
            float(sample.rewards[place]),
            float(sample.discounts[place]),
            tuple(following[place].tolist()) if sample.discounts[place] else (),
        )
        for place in np.ndindex(40, size)
    }


@pytest.mark.parametrize("capacity", [2000, 200])
def test_recorders_that_begin_anew_leave_no_stack_broken(capacity: int) -> None:
    """Three recorders one after the other, two of them lost in the middle of episodes, beside one that lasts."""
    shard = make_shard(capacity, 2, num_envs=5, n_step=3, frame_stack=4, max_steps_per_block=7)
    everything: Counter[Stored] = Counter()
    for writer, num_steps in ((0, 20), (1, 60), (0, 16), (0, 30)):
        if writer == 0:
            shard.restart_writer(0)
        vector = make("ScriptedNextStep-v0", EnvironmentConfig(num_envs=5, engine="registered"))
        taken: list[int] = []
        for block, so_far in drive(
            vector, Recorder(5, LAYOUT, 0, n_step=3, discount=DISCOUNT, max_steps_per_block=7), num_steps, 7
        ):
            shard.append(writer, block)
            taken = so_far
        vector.close()
        everything += Counter(truth(taken, 3, 4))
    found = stored_in(shard)
    if capacity == 2000:
        assert len(shard) == everything.total() and found == set(everything)
    else:
        assert 100 < len(shard) <= 200 and found < set(everything)
