"""Learning from one step that was made in Python: what the compiled walk does after a step, for a single one.

As many random numbers are drawn as the compiled walk draws, for the step and the reset too: a deterministic world
stepped in Python is walked as it is compiled, action for action.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel, part
from qfleet.states.pinned import contents
from qfleet.tabular.choosing import choose, value
from qfleet.tabular.records import NO_ACTION, STEPS, Constants, History, Table, Totals, Walkers
from qfleet.tabular.rules import bootstrap, learn, learning_rate, weigh
from qfleet.tabular.walk import draw, end_episode
from qfleet.worlds.world import FUNCTIONS

WORLD = "stepped in Python"
"""The key under which kernels find which actions are allowed: those of the latest observation's mask."""

ENDED, NOT_FINITE, NOTHING_ALLOWED = -1, -2, -3
"""What `observe` returns instead of an action."""


class Mask(NamedTuple):
    """What the kernels know of an environment that is stepped in Python."""

    allowed: NDArray[np.bool_]
    """(num_actions,) of the latest observation."""


class Steps(NamedTuple):
    """What the kernels of this module work on; the fields they share with Work are what they are there."""

    parameters: Mask
    constants: Constants
    table: Table
    """With tiles its values are room for one row: the sums over the active tiles."""
    walkers: Walkers
    history: History
    totals: Totals
    weights: NDArray[np.floating]
    """(1, num_tiles, num_actions): what each tile adds to the values; empty without tiles."""
    tiles: NDArray[np.int64]
    """(num_walkers, num_tilings): active where each walker is."""
    next_tiles: NDArray[np.int64]
    """(num_tilings,): active at the latest observation."""


@part
def _is_allowed(parameters, state, action):
    return parameters.allowed[action]


FUNCTIONS[WORLD] = (None, None, _is_allowed)


@borrowing_kernel
def observe(program, pinned, walker, next_state, reward, terminated, truncated):
    """Learns from a walker's step to the latest observation, and returns its next action, or one of the constants."""
    work: Any = contents(pinned)  # pyright: ignore[reportCallIssue]
    fault = _fault(work, reward, terminated)
    if fault:
        return fault
    state, action = work.walkers.state[walker], work.walkers.action[walker]
    age, ends = work.walkers.age[walker], terminated or truncated
    draw(work, walker)
    bits = draw(work, walker)
    coin = np.int64(bits & np.uint64(1))
    next_action, best = choose(program, work, next_state, next_state, bits, age)
    continues = not ends and value(program, work, next_state, next_action) == best
    worth = bootstrap(program, work, next_state, next_state, next_action, best, coin, age)
    bootstrapped = 0.0 if terminated else worth
    learn(program, work, walker, state, action, reward, bootstrapped, continues, coin)
    return _move_on(work, walker, next_state, next_action, reward, ends)


@borrowing_kernel
def observe_tiles(program, pinned, walker, next_state, reward, terminated, truncated):
    """The same for values that are sums over tiles (one-step rules; Sutton and Barto 2018, section 9.5.4).

    Semi-gradient: each active tile moves by its share of the error. `next_state` has no meaning.
    """
    work: Any = contents(pinned)  # pyright: ignore[reportCallIssue]
    fault = _fault(work, reward, terminated)
    if fault:
        return fault
    action, age = work.walkers.action[walker], work.walkers.age[walker]
    draw(work, walker)
    bits = draw(work, walker)
    _add_tiles(work)
    next_action, best = choose(program, work, 0, 0, bits, age)
    worth = bootstrap(program, work, 0, 0, next_action, best, 0, age)
    target = reward + work.constants.discount * (0.0 if terminated else worth)
    _move_tiles(program, work, walker, action, target)
    _keep_tiles(work, walker)
    return _move_on(work, walker, 0, next_action, reward, terminated or truncated)


@borrowing_kernel
def enter(program, pinned, walker, state):
    """Puts a walker into the first state of an episode, and returns its action there, or NOTHING_ALLOWED."""
    work: Any = contents(pinned)  # pyright: ignore[reportCallIssue]
    if not _any_allowed(work):
        return NOTHING_ALLOWED
    row = np.int64(state)
    if work.next_tiles.size:
        _add_tiles(work)
        _keep_tiles(work, walker)
        row = np.int64(0)
    draw(work, walker)
    action, _ = choose(program, work, row, row, draw(work, walker), work.walkers.age[walker])
    work.walkers.state[walker], work.walkers.action[walker] = row, action
    return action


@part
def _fault(work, reward, terminated):
    """NOT_FINITE or NOTHING_ALLOWED for what can not be learned from, else 0; a terminal observation needs no mask."""
    if not np.isfinite(reward):
        return NOT_FINITE
    return 0 if terminated or _any_allowed(work) else NOTHING_ALLOWED


@part
def _any_allowed(work):
    count = 0
    for action in range(work.constants.num_actions):
        count += work.parameters.allowed[action]
    return count > 0


@part
def _move_on(work, walker, next_state, next_action, reward, ends):
    work.walkers.age[walker] += 1
    work.walkers.episode_return[walker] += reward
    work.totals.counts[STEPS] += 1
    work.walkers.state[walker], work.walkers.action[walker] = next_state, next_action
    if ends:
        end_episode(work, walker)
        work.walkers.action[walker] = NO_ACTION
        return ENDED
    return next_action


@part
def _add_tiles(work):
    """The values of the latest observation, into the one row of the table."""
    for action in range(work.constants.num_actions):
        total = 0.0
        for tile in work.next_tiles:
            total += work.weights[0, tile, action]
        work.table.values[0, 0, action] = total


@part
def _keep_tiles(work, walker):
    for i in range(work.next_tiles.size):
        work.tiles[walker, i] = work.next_tiles[i]


@part
def _move_tiles(program, work, walker, action, target):
    """Moves the value of where the walker was towards its target; the learning rate is that of one tile."""
    old = 0.0
    for i in range(work.next_tiles.size):
        old += work.weights[0, work.tiles[walker, i], action]
    for i in range(work.next_tiles.size):
        tile = work.tiles[walker, i]
        rate = learning_rate(program, work, 0, tile, action)
        work.weights[0, tile, action] += rate * (target - old)
        weigh(program, work, 0, tile, action, rate)
