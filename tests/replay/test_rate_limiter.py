"""The limiter between inserting and sampling: by hand, and never both halted."""

import pytest

from qfleet.errors import QfleetError
from qfleet.replay.rate_limiter import RateLimiter


def limiter(
    ratio: float = 0.5, starts: int = 10, buffer: float = 3, insert: int = 4, sample: int = 1
) -> RateLimiter:
    return RateLimiter(ratio, starts, buffer, largest_insert_steps=insert, largest_sample_updates=sample)


@pytest.mark.parametrize(
    ("num_steps", "num_updates", "may_insert", "may_sample"),
    [
        (0, 0, True, False),  # learning has not started
        (9, 0, True, False),
        (10, 0, True, True),  # balance 0: 4 steps bring it to 2, an update to -1
        (10, 2, True, True),
        (10, 3, True, False),  # -3: one more would be -4
        (12, 0, True, True),  # 1: 4 steps bring it to 3
        (14, 0, False, True),  # 2: 4 steps would bring it to 4
        (20, 2, False, True),
        (20, 4, True, True),
        (20, 8, True, False),
    ],
)
def test_by_hand(num_steps: int, num_updates: int, may_insert: bool, may_sample: bool) -> None:
    limits = limiter()
    limits.insert(num_steps)
    limits.sample(num_updates)
    assert limits.may_insert(4) == may_insert and limits.may_sample(1) == may_sample


def test_the_balance_is_what_steps_earned_less_what_updates_spent() -> None:
    limits = limiter(ratio=0.25, starts=100)
    assert limits.balance() == -25
    limits.insert(300)
    limits.sample(45)
    assert limits.balance() == 5


@pytest.mark.parametrize("ratio", [0.01, 0.25, 1.0, 7.5])
@pytest.mark.parametrize("pieces", [(1, 1), (64, 8), (3, 40), (500, 1)])
def test_neither_first_nor_last_do_both_halt_and_the_ratio_holds(
    ratio: float, pieces: tuple[int, int]
) -> None:
    steps, updates = pieces
    buffer = (steps * ratio + updates) / 2 + 1e-6
    limits = limiter(ratio, 1000, buffer, steps, updates)
    for turn in range(3000):
        eager_to_sample = turn // 7 % 2 == 1
        may_sample, may_insert = limits.may_sample(updates), limits.may_insert(steps)
        assert may_sample or may_insert
        if may_sample and (eager_to_sample or not may_insert):
            limits.sample(updates)
        else:
            limits.insert(steps)
        if limits.num_steps > 1000 + steps:
            assert abs(limits.balance()) <= buffer + 1e-9
    assert limits.num_updates > 0 or limits.num_steps <= 1000 + buffer / ratio


def test_a_buffer_in_which_both_could_halt_is_refused() -> None:
    with pytest.raises(QfleetError, match="neither could go on; it must be at least 36"):
        limiter(0.5, 0, 35.9, insert=128, sample=8)
    limiter(0.5, 0, 36, insert=128, sample=8)


def test_saved_and_loaded() -> None:
    limits, other = limiter(), limiter()
    limits.insert(17)
    limits.sample(3)
    other.load_state(limits.save_state())
    assert (other.num_steps, other.num_updates, other.balance()) == (17, 3, 0.5)
