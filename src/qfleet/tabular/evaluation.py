"""Greedy episodes in a world, by a table or by looking rows up."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel, mix
from qfleet.tabular.choosing import has, unit
from qfleet.tabular.program import Program
from qfleet.tabular.walk import reset, step
from qfleet.worlds.world import World

LookUp = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Rows (n, num_actions) of states (n,)."""

_STEPS_AT_A_TIME = 1000
_MOST_REMEMBERED = 2**18
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@borrowing_kernel
def _start(program, parameters, random, state):
    for i in range(state.size):
        random[i] += _GOLDEN
        state[i] = reset(program, parameters, unit(mix(random[i])))


@borrowing_kernel
def _play(program, parameters, rows, by_state, state, random, returns, lengths, playing, limit, num_steps):
    """Up to `num_steps` greedy steps of every episode that goes on; row i is state i's, or else episode i's."""
    for i in range(state.size):
        for _ in range(num_steps):
            if not playing[i]:
                break
            row = state[i] if by_state else i
            action, best = np.int64(-1), 0.0
            for candidate in range(rows.shape[1]):
                worth = rows[row, candidate]
                if has(program, parameters, state[i], candidate) and (action < 0 or worth > best):
                    action, best = np.int64(candidate), worth
            random[i] += _GOLDEN
            state[i], reward, ended = step(program, parameters, state[i], action, unit(mix(random[i])))
            returns[i] += reward
            lengths[i] += 1
            playing[i] = not ended and lengths[i] < limit


@final
class _Remembered:
    """Asks for each state's row once: rows may lie on other machines, and do not change while episodes are played."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._states = np.empty(0, np.int64)
        self._rows: NDArray[Any] | None = None

    def rows(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(n, num_actions) of states (n,)."""
        if self._rows is None or len(self._states) > _MOST_REMEMBERED:
            self._states = np.unique(states)
            self._rows = self._look_up(self._states)
        if (missing := np.setdiff1d(states, self._states)).size:
            known = np.concatenate([self._states, missing])
            order = np.argsort(known)
            rows = np.concatenate([self._rows, self._look_up(missing)])
            self._states, self._rows = known[order], rows[order]
        return self._rows[np.searchsorted(self._states, states)]


def play_world(
    world: World,
    values: NDArray[Any] | LookUp,
    num_episodes: int,
    seed: int,
    max_steps: int,
    interrupted: Callable[[], bool],
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Returns and lengths (num_episodes,) of greedy episodes; among equal values the first action is taken.

    `values` is the table (num_states, num_actions), or a function that looks rows up. Episodes end by the world's
    own limit or after `max_steps` steps. None if interrupted meanwhile.
    """
    program = Program(
        world.key, "q-learning", "uniform", "constant", world.allowed is not None, False, "whole", False
    )
    offsets = np.arange(num_episodes, dtype=np.uint64) * _GOLDEN
    random = np.array([mix(np.uint64(seed) + offset) for offset in offsets], np.uint64)
    state, limit = np.zeros(num_episodes, np.int64), min(max_steps, world.max_episode_steps or max_steps)
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes, np.int64)
    playing = np.ones(num_episodes, np.bool_)
    _start(program, world.parameters, random, state)
    remembered = _Remembered(values) if callable(values) else None
    while playing.any():
        if interrupted():
            return None
        by_state = remembered is None
        rows, steps = (values, _STEPS_AT_A_TIME) if remembered is None else (remembered.rows(state), 1)
        _play(
            program, world.parameters, rows, by_state, state, random, returns, lengths, playing, limit, steps
        )
    return returns, lengths
