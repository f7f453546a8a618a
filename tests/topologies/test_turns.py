"""Several turns as one."""

import pytest

from qfleet.topologies.topology import Turn, merged

SINGLE = Turn(2, (1.0, 3.0), (10.0, 30.0))
MEAN = Turn(6, (7.0,), (50.0,))
EMPTY = Turn(0, (), ())


def test_every_episode_is_kept_where_all_are_known() -> None:
    assert merged([SINGLE, EMPTY, Turn(1, (5.0,), (4.0,))]) == Turn(3, (1.0, 3.0, 5.0), (10.0, 30.0, 4.0))
    assert merged([]) == merged([EMPTY, EMPTY]) == EMPTY


def test_means_are_weighted_by_their_episodes() -> None:
    turn = merged([SINGLE, EMPTY, MEAN])
    assert turn.num_episodes == 8 and len(turn.returns) == len(turn.lengths) == 1
    assert turn.returns[0] == pytest.approx((1 + 3 + 6 * 7) / 8)
    assert turn.lengths[0] == pytest.approx((10 + 30 + 6 * 50) / 8)
