"""Transitions of a world as they are stored: made by walkers that only act, and learned from in minibatches."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.kernels import borrowing_kernel, part
from qfleet.tabular.choosing import allowed, choose
from qfleet.tabular.records import STEPS
from qfleet.tabular.rules import move
from qfleet.tabular.shards import row_of
from qfleet.tabular.walk import draw, end_episode, make_step, note_fault, start_episode


class Transitions(NamedTuple):
    """Steps, in the order in which they were made or drawn; every array is (n,)."""

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    next_state: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    @staticmethod
    def empty(number: int) -> "Transitions":
        """Room for so many."""
        kinds = (np.int64, np.int64, np.float64, np.int64, np.bool_)
        return Transitions._make(np.empty(number, kind) for kind in kinds)

    def of(self, rows: Any) -> "Transitions":
        """Those of some rows: a view of a slice, a copy of numbers (n,)."""
        return Transitions._make(array[rows] for array in self)


@borrowing_kernel
def act(program, work, budget, made):
    """Makes `budget` steps, one of each resident walker in turn, and writes them into `made`; learns nothing.

    Returns 0, or 1 if a step left the world's states or had no finite reward: then work.totals.fault says which.
    """
    walkers = work.walkers
    for i in range(budget):
        walker = work.residents[work.cursor[0]]
        made.state[i], made.action[i] = walkers.state[walker], walkers.action[walker]
        state, reward, terminated = make_step(program, work, walker)
        if not (0 <= state < work.constants.num_states and np.isfinite(reward)):
            return note_fault(work, walker, state, reward, 0)
        made.reward[i], made.next_state[i], made.terminated[i] = reward, state, terminated
        if _go_on(program, work, walker, state, reward, terminated):
            return 1
        work.cursor[0] = (work.cursor[0] + 1) % work.residents.size
    work.totals.counts[STEPS] += budget
    return 0


@part
def _go_on(program, work, walker, state, reward, terminated):
    """Chooses the walker's next action, or begins its next episode."""
    walkers, age = work.walkers, work.walkers.age[walker]
    walkers.age[walker] = age + 1
    walkers.episode_return[walker] += reward
    if terminated or age + 1 - walkers.born[walker] >= work.constants.max_episode_steps:
        end_episode(work, walker)
        return start_episode(program, work, walker)
    row, bits = row_of(program, work, state), draw(work, walker)
    action, _ = choose(program, work, state, row, bits, age)
    walkers.state[walker], walkers.action[walker] = state, action
    return 0


@borrowing_kernel
def learn_minibatches(program, work, target, drawn, batch_size, target_every, target_rate, num_updates):
    """An update from every `batch_size` transitions of `drawn`; `target` (1, states, actions) follows the table.

    Q(s, a) moves towards r + discount * max over a' of target(s', a'), one transition after the other. `num_updates`
    were made before. Returns the sum of |target - Q(s, a)| over the transitions.
    """
    total = 0.0
    for i in range(drawn.state.size):
        state, action, reached = drawn.state[i], drawn.action[i], drawn.next_state[i]
        goal = drawn.reward[i]
        if not drawn.terminated[i]:
            goal += work.constants.discount * _best(program, work, target, reached)
        total += abs(goal - work.table.values[0, state, action])
        move(program, work, 0, state, action, goal, 1.0)
        if (i + 1) % batch_size == 0 and (num_updates + (i + 1) // batch_size) % target_every == 0:
            _follow(work, target, target_rate)
    return total


@part
def _best(program, work, target, state):
    """The largest target value of the actions that a state has."""
    best = -np.inf
    for action in range(work.constants.num_actions):
        if target[0, state, action] > best and allowed(program, work, state, action):
            best = np.float64(target[0, state, action])
    return best


@part
def _follow(work, target, rate):
    """target <- rate * table + (1 - rate) * target; rate 1 copies exactly."""
    for state in range(target.shape[1]):
        for action in range(target.shape[2]):
            new, old = work.table.values[0, state, action], target[0, state, action]
            target[0, state, action] = new if rate == 1.0 else old + rate * (new - old)
