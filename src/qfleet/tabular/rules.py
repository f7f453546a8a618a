"""The update rules (Sutton and Barto 2018, chapters 6, 7 and 12): what a step adds to the table.

All share Q(s, a) <- (1 - eta) Q(s, a) + eta (r + discount * bootstrap), bootstrap 0 where the episode terminated.
"""

from typing import Any

import numpy as np

from qfleet.kernels import part
from qfleet.tabular.choosing import allowed, expected
from qfleet.tabular.program import Program, dispatched


@dispatched(lambda program: _coin if program.rule == "double-q-learning" else _no_coin)
def coin_of(program, bits) -> Any:
    """The number of the table that a step updates."""
    raise NotImplementedError


def _coin(program, bits):
    return np.int64(bits & np.uint64(1))


def _no_coin(program, bits):
    return np.int64(0)


@dispatched(lambda program: _RATES[program.rate])
def learning_rate(program, work, table, row, action) -> Any:
    """eta of the next update of a pair; counts the visit where the schedule needs it."""
    raise NotImplementedError


def _rate_constant(program, work, table, row, action):
    return work.constants.learning_rate


def _rate_visits(program, work, table, row, action):
    work.table.visits[table, row, action] += 1
    return (
        work.constants.learning_rate * work.table.visits[table, row, action] ** -work.constants.rate_exponent
    )


def _rate_rescaled_linear(program, work, table, row, action):
    """Li et al. 2021 (arXiv 2102.06548), eq. 7b without the logarithms: 1 / (1 + (1 - discount) (N - 1))."""
    work.table.visits[table, row, action] += 1
    seen = np.float64(work.table.visits[table, row, action] - 1)
    return work.constants.learning_rate / (1 + (1 - work.constants.discount) * seen)


_RATES = {
    "constant": _rate_constant,
    "visits": _rate_visits,
    "rescaled-linear": _rate_rescaled_linear,
}


@dispatched(lambda program: _weigh_of(program))
def weigh(program, work, table, row, action, rate) -> Any:
    """Adds what one update contributes to the merge's weight (Woo et al. 2023, arXiv 2305.10697)."""
    raise NotImplementedError


def _weigh_of(program: Program) -> Any:
    if not program.weighted:
        return _weigh_not
    return _weigh_constant if program.rate == "constant" and program.rule != "watkins-q-lambda" else _weigh


def _weigh(program, work, table, row, action, rate):
    work.table.log_weights[table, row, action] -= np.log1p(-rate)


def _weigh_constant(program, work, table, row, action, rate):
    work.table.log_weights[table, row, action] += work.constants.log_weight


def _weigh_not(program, work, table, row, action, rate): ...


@part
def move(program, work, table, row, action, target, share):
    """Moves one value towards its target by share * eta."""
    rate = learning_rate(program, work, table, row, action) * share
    old = work.table.values[table, row, action]
    work.table.values[table, row, action] = old + rate * (target - old)
    weigh(program, work, table, row, action, rate)


@dispatched(lambda program: _BOOTSTRAPS[program.rule])
def bootstrap(program, work, state, row, action, best, coin, age) -> Any:
    """What the value of a state counts as, given the action chosen in it and the greedy value there."""
    raise NotImplementedError


@dispatched(lambda program: _BOOTSTRAPS["expected-sarsa" if program.rule == "sarsa" else program.rule])
def prospect(program, work, state, row, action, best, coin, age) -> Any:
    """What the value of a state counts as where no action is chosen in it: SARSA's is the expectation."""
    raise NotImplementedError


def _bootstrap_best(program, work, state, row, action, best, coin, age):
    return np.float64(best)


def _bootstrap_chosen(program, work, state, row, action, best, coin, age):
    return np.float64(work.table.values[0, row, action])


def _bootstrap_expected(program, work, state, row, action, best, coin, age):
    return np.float64(expected(program, work, state, row, best, age))


def _bootstrap_double(program, work, state, row, action, best, coin, age):
    """van Hasselt 2010: the table that is updated chooses, the other one evaluates."""
    chosen, _ = greedy_of_table(program, work, coin, state, row, action)
    return np.float64(work.table.values[1 - coin, row, chosen])


@part
def greedy_of_table(program, work, table, state, row, incumbent):
    """The best action of one of two tables, and its value there."""
    chosen, best = incumbent, work.table.values[table, row, incumbent]
    for action in range(work.constants.num_actions):
        candidate = work.table.values[table, row, action]
        if candidate > best and allowed(program, work, state, action):
            chosen, best = np.int64(action), candidate
    return chosen, best


_BOOTSTRAPS: dict[str, Any] = {
    "q-learning": _bootstrap_best,
    "double-q-learning": _bootstrap_double,
    "sarsa": _bootstrap_chosen,
    "expected-sarsa": _bootstrap_expected,
    "tree-backup": _bootstrap_best,
    "watkins-q-lambda": _bootstrap_best,
}


@dispatched(lambda program: _LEARNERS[program.rule])
def learn(program, work, walker, row, action, reward, bootstrapped, continues, coin) -> Any:
    """Learns from one step; `bootstrapped` is 0 where the episode terminated.

    `continues` is true where the walker's next step follows on this one and its action is a greedy one: returns
    of several steps and traces reach no further.
    """
    raise NotImplementedError


def _learn_one_step(program, work, walker, row, action, reward, bootstrapped, continues, coin):
    move(program, work, 0, row, action, reward + work.constants.discount * bootstrapped, 1.0)


def _learn_double(program, work, walker, row, action, reward, bootstrapped, continues, coin):
    move(program, work, coin, row, action, reward + work.constants.discount * bootstrapped, 1.0)


def _learn_tree_backup(program, work, walker, row, action, reward, bootstrapped, continues, coin):
    """n-step tree backup towards the greedy policy (Precup et al. 2000; Sutton and Barto 2018, section 7.5).

    For a greedy target policy the tree is a chain: the return runs through greedy actions and ends, with the
    best value, before the first that is not.
    """
    length = _remember(work, walker, row, action, reward)
    if continues and length < work.constants.history_length:
        return
    target = bootstrapped
    for i in range(length - 1, -1, -1):
        target = work.history.reward[walker, i] + work.constants.discount * target
        if i == 0 or not continues:
            move(program, work, 0, work.history.row[walker, i], work.history.action[walker, i], target, 1.0)
    _forget(work, walker, 1 if continues else length)


def _learn_watkins(program, work, walker, row, action, reward, bootstrapped, continues, coin):
    """Watkins' Q(lambda) with accumulating traces, cut at actions that are not greedy (Watkins 1989).

    A trace ends where it has decayed to nothing: the kept pairs are `history_length`, the newest with trace 1.
    """
    if work.history.length[walker] == work.constants.history_length:
        _forget(work, walker, 1)
    length = _remember(work, walker, row, action, reward)
    error = reward + work.constants.discount * bootstrapped - work.table.values[0, row, action]
    rate, trace = learning_rate(program, work, 0, row, action), 1.0
    for i in range(length - 1, -1, -1):
        past_row, past_action = work.history.row[walker, i], work.history.action[walker, i]
        work.table.values[0, past_row, past_action] += rate * trace * error
        weigh(program, work, 0, past_row, past_action, rate * trace)
        trace *= work.constants.discount * work.constants.trace_decay
    if not continues:
        _forget(work, walker, length)


_LEARNERS: dict[str, Any] = {
    "q-learning": _learn_one_step,
    "double-q-learning": _learn_double,
    "sarsa": _learn_one_step,
    "expected-sarsa": _learn_one_step,
    "tree-backup": _learn_tree_backup,
    "watkins-q-lambda": _learn_watkins,
}


@part
def _remember(work, walker, row, action, reward):
    """Adds a step to a walker's history, and says how long it is now."""
    length = work.history.length[walker]
    work.history.row[walker, length] = row
    work.history.action[walker, length] = action
    work.history.reward[walker, length] = reward
    work.history.length[walker] = length + 1
    return length + 1


@part
def _forget(work, walker, count):
    """Takes the oldest steps off a walker's work.history."""
    length = work.history.length[walker] - count
    for i in range(length):
        work.history.row[walker, i] = work.history.row[walker, i + count]
        work.history.action[walker, i] = work.history.action[walker, i + count]
        work.history.reward[walker, i] = work.history.reward[walker, i + count]
    work.history.length[walker] = length
