"""What every backend's Group must do, bit for bit, on 1 to 4 members."""

import time
from typing import Any

import numpy as np
import pytest

from qfleet.errors import FleetError
from qfleet.fleet import Group
from tests.backends.members import BACKENDS, Members

DTYPES = ["?", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
SHAPES = [(), (0,), (3, 0), (1,), (7,), (5, 3), (2, 3, 4), (1013,), (64, 129)]


def _drawn(rank: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers of many sizes, so that the order of adding them shows."""
    generator = np.random.default_rng([rank, len(shape), sum(shape)])
    numbers = np.asarray(generator.normal(size=shape) * 10.0 ** generator.integers(-3, 4, shape))
    if np.dtype(dtype).kind in "fc":
        return numbers.astype(dtype)
    return np.asarray(np.asarray(np.abs(numbers)).astype("i8").astype(dtype))


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _all_reduce(group: Group, arrays: list[np.ndarray], reduction: Any) -> np.ndarray:
    return group.all_reduce(arrays[group.rank], reduction)


def _added_in_order(arrays: list[np.ndarray]) -> np.ndarray:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total = np.asarray(total + array)
    return total


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_reduce_is_that_of_the_ranks_in_their_order(members: Members, dtype: str) -> None:
    for shape in SHAPES:
        arrays = [_drawn(rank, shape, dtype) for rank in range(members.size)]
        expected = {
            "sum": _added_in_order(arrays),
            "max": np.max(arrays, axis=0),
            "min": np.min(arrays, axis=0),
        }
        for reduction, value in expected.items():
            for result in members.run(_all_reduce, arrays, reduction):
                assert _same_bits(result, np.asarray(value)), (shape, reduction)


def test_another_order_of_adding_would_show() -> None:
    arrays = [_drawn(rank, (1013,), "f4") for rank in range(3)]
    assert not _same_bits(_added_in_order(arrays), _added_in_order(arrays[::-1]))


@pytest.mark.parametrize("num_numbers", [9, 9001])
def test_signed_zeros_nan_and_infinity_come_out_the_same_everywhere(
    members: Members, num_numbers: int
) -> None:
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1e308])
    arrays = [np.roll(np.resize(special, num_numbers), 3 * rank) for rank in range(members.size)]
    with np.errstate(all="ignore"):
        expected = _added_in_order(arrays)
    sums = members.run(_all_reduce, arrays, "sum")
    assert all(np.array_equal(one, expected, equal_nan=True) for one in sums)
    assert all(np.array_equal(np.signbit(one[one == 0]), np.signbit(expected[expected == 0])) for one in sums)
    for reduction, of_all in (("max", np.max), ("min", np.min)):
        results = members.run(_all_reduce, arrays, reduction)
        assert all(_same_bits(one, results[0]) for one in results)
        assert np.array_equal(results[0], of_all(arrays, axis=0), equal_nan=True)


@pytest.mark.parametrize("num_numbers", [5, 4999])
def test_a_tie_of_zeros_keeps_the_first_ranks(members: Members, num_numbers: int) -> None:
    arrays = [np.full(num_numbers, -0.0 if rank == 0 else 0.0) for rank in range(members.size)]
    for reduction in ("max", "min"):
        assert all(np.signbit(one).all() for one in members.run(_all_reduce, arrays, reduction))
    assert np.signbit(members.run(_all_reduce, [np.array(-0.0)] * members.size, "sum")[0])


def _reduce_and_write(group: Group) -> list[np.ndarray]:
    given = np.full(6000, group.rank, np.float32)
    total = group.all_reduce(given, "sum")
    total += 1
    group.barrier()
    return [given, total]


def test_what_all_reduce_gives_is_new(members: Members) -> None:
    for rank, (given, total) in enumerate(members.run(_reduce_and_write)):
        assert (given == rank).all() and (total == 1 + sum(range(members.size))).all()


def _exchange(group: Group, messages: list[list[np.ndarray]], in_two_parts: bool) -> list[np.ndarray]:
    sent = messages[group.rank]
    received = group.start_exchange(sent).finish() if in_two_parts else group.exchange(sent)
    return [array.copy() for array in received]


@pytest.mark.parametrize("in_two_parts", [False, True])
def test_exchange_of_unequal_empty_and_differing_arrays(members: Members, in_two_parts: bool) -> None:
    size = members.size
    messages = [
        [
            _drawn(10 * sender + receiver, SHAPES[(sender + 2 * receiver) % 9], DTYPES[sender + receiver])
            for receiver in range(size)
        ]
        for sender in range(size)
    ]
    for receiver, received in enumerate(members.run(_exchange, messages, in_two_parts)):
        assert all(_same_bits(received[sender], messages[sender][receiver]) for sender in range(size))


def test_records_dates_and_swapped_bytes_keep_their_dtype(members: Members) -> None:
    arrays = [
        np.array([(1, 2.5), (3, -0.0)], [("state", "i4"), ("value", "f8")]),
        np.array(["2026-11-21"], "M8[D]"),
        np.array([1, 2], ">i4"),
        np.array(["états", ""]),
    ]
    for array in arrays:
        for received in members.run(_exchange, [[array] * members.size] * members.size, False):
            assert all(_same_bits(one, array) for one in received)


def _broadcast(group: Group, arrays: list[np.ndarray], root: int) -> np.ndarray:
    return group.broadcast(arrays[group.rank], root)


def test_broadcast_gives_the_roots_whatever_the_others_hand_in(members: Members) -> None:
    arrays = [_drawn(rank, SHAPES[rank + 4], DTYPES[rank + 3]) for rank in range(members.size)]
    for root in range(members.size):
        assert all(_same_bits(one, arrays[root]) for one in members.run(_broadcast, arrays, root))


def _mistakes(group: Group) -> list[tuple[str, str]]:
    """Messages, and what each must say."""
    strided, size = np.zeros((4, 4)).T[1:], group.size
    mistakes: list[tuple[Any, tuple[Any, ...], str]] = [
        (group.exchange, ([strided] * size,), "C-contiguous arrays; got shape (3, 4)"),
        (group.all_reduce, (np.zeros(8)[::2], "sum"), "C-contiguous arrays; got shape (4,)"),
        (group.exchange, ([np.zeros(1)] * (size + 1),), f"each of {size} ranks; got {size + 1}"),
        (group.all_reduce, (1.5, "sum"), "NumPy arrays; got float"),
        (group.all_reduce, (np.array([None]), "max"), "holds Python objects"),
        (group.broadcast, (np.zeros(1), size), f"0 to {size - 1}; got {size}"),
    ]
    said = []
    for method, arguments, expected in mistakes:
        with pytest.raises(FleetError) as caught:
            method(*arguments)
        said.append((str(caught.value), expected))
    group.barrier()
    return said


def test_mistakes_are_refused_before_anything_is_sent(members: Members) -> None:
    for said in members.run(_mistakes):
        assert len(said) == 6
        assert all(expected in message and "\n" not in message for message, expected in said)


def _one_at_a_time(group: Group) -> list[str]:
    messages = []
    exchange = group.start_exchange([np.zeros(1)] * group.size)
    for call in (group.barrier, lambda: group.start_exchange([np.zeros(1)] * group.size)):
        try:
            call()
        except FleetError as error:
            messages.append(str(error))
    exchange.finish()
    try:
        exchange.finish()
    except FleetError as error:
        messages.append(str(error))
    group.barrier()
    return messages


def test_one_exchange_at_a_time_and_finished_once(members: Members) -> None:
    for messages in members.run(_one_at_a_time):
        assert ["under way" in message for message in messages] == [True, True, False]


def _write_to_received(group: Group) -> list[bool]:
    return [array.flags.writeable for array in group.exchange([np.zeros(3)] * group.size)]


def test_what_an_exchange_gives_cannot_be_written_to(members: Members) -> None:
    assert not any(any(flags) for flags in members.run(_write_to_received))


def _many_rounds(group: Group, num_rounds: int) -> int:
    """Every kind of call, with numbers that tell an old or a foreign message from the right one."""
    num_wrong, size = 0, group.size
    for turn in range(num_rounds):
        number = np.array([turn, group.rank])
        if turn % 4 == 0:
            group.barrier()
        elif turn % 4 == 1:
            num_wrong += group.all_reduce(number, "sum").tolist() != [turn * size, size * (size - 1) // 2]
        elif turn % 4 == 2:
            num_wrong += group.broadcast(number, turn % size).tolist() != [turn, turn % size]
        else:
            lengths = [1 + (turn + rank) % 5 for rank in range(size)]
            received = group.exchange([np.full(length, turn * size + group.rank) for length in lengths])
            expected = [[turn * size + rank] * lengths[group.rank] for rank in range(size)]
            num_wrong += [array.tolist() for array in received] != expected
    return num_wrong


def test_many_small_rounds(members: Members) -> None:
    assert members.run(_many_rounds, 10_000) == [0] * members.size


def _read_slowly(group: Group, num_rounds: int) -> bool:
    """The views stay what they are until this member's next call, however far the others have come."""
    is_right = True
    for turn in range(num_rounds):
        received = group.exchange([np.full(5000, turn * 10 + group.rank)] * group.size)
        time.sleep(0.002 * ((turn + group.rank) % 3))
        is_right &= all((array == turn * 10 + rank).all() for rank, array in enumerate(received))
    return is_right


def test_views_last_until_the_next_call_of_who_has_them(members: Members) -> None:
    assert all(members.run(_read_slowly, 30))


def _grow(group: Group, sizes: list[int]) -> bool:
    is_right = True
    for turn, size in enumerate(sizes):
        sent = np.arange(size // 8) + turn + group.rank
        received = group.exchange([sent] * group.size)
        is_right &= all(array.size == size // 8 for array in received)
        is_right &= all(array[-1] == size // 8 - 1 + turn + rank for rank, array in enumerate(received))
        expected = sum(array[:: 1 + size // 80] for array in received)
        is_right &= np.array_equal(group.all_reduce(sent, "sum")[:: 1 + size // 80], expected)
    return is_right


def test_messages_that_grow_and_shrink_up_to_16_mb(members: Members) -> None:
    assert all(members.run(_grow, [8, 1 << 12, 1 << 16, 1 << 17, 64, 16_000_000, 8, 3_000_000]))


@pytest.mark.soak
def test_messages_of_256_mb(members: Members) -> None:
    assert all(members.run(_grow, [256_000_000, 8, 256_000_000]))


def _rank_of_stagger(group: Group) -> float:
    time.sleep(0.1 * group.rank)
    group.barrier()
    return time.monotonic()


def test_nobody_leaves_a_barrier_before_the_last_has_come(members: Members) -> None:
    started = time.monotonic()
    left = members.run(_rank_of_stagger)
    assert min(left) - started >= 0.1 * (members.size - 1)


def _views_of(group: Group, arrays: list[np.ndarray]) -> list[np.ndarray]:
    return group.exchange([arrays[group.rank]] * group.size)


@pytest.mark.skipif("threads" not in BACKENDS, reason="about threads")
def test_threads_see_one_another_s_arrays_without_a_copy() -> None:
    threads = Members("threads", 2)
    arrays = [np.zeros(4), np.ones(4)]
    for received in threads.run(_views_of, arrays):
        assert all(np.shares_memory(one, array) for one, array in zip(received, arrays, strict=True))
    threads.fleet.close()
