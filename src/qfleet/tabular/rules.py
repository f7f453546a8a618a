"""The update rules (Sutton and Barto 2018, chapters 6, 7 and 12): what a step adds to the table.

All share Q(s, a) <- (1 - eta) Q(s, a) + eta (r + discount * bootstrap), bootstrap 0 where the episode terminated.
"""

from typing import Any

import numpy as np

from qfleet.kernels import part
from qfleet.tabular.choosing import allowed, expected
from qfleet.tabular.program import Program, dispatched


@dispatched(lambda program: _RATES[program.rate])
def learning_rate(program, constants, visits, table, row, action):
    """eta of the next update of a pair; counts the visit where the schedule needs it."""
    raise NotImplementedError


def _rate_constant(program, constants, visits, table, row, action):
    return constants.learning_rate


def _rate_visits(program, constants, visits, table, row, action):
    visits[table, row, action] += 1
    return constants.learning_rate * visits[table, row, action] ** -constants.rate_exponent


def _rate_rescaled_linear(program, constants, visits, table, row, action):
    """Li et al. 2021 (arXiv 2102.06548), eq. 7b without the logarithms: 1 / (1 + (1 - discount) (N - 1))."""
    visits[table, row, action] += 1
    seen = np.float64(visits[table, row, action] - 1)
    return constants.learning_rate / (1 + (1 - constants.discount) * seen)


_RATES = {
    "constant": _rate_constant,
    "visits": _rate_visits,
    "rescaled-linear": _rate_rescaled_linear,
}


@dispatched(lambda program: _weigh_of(program))
def weigh(program, constants, log_weights, table, row, action, rate):
    """Adds what one update contributes to the merge's weight (Woo et al. 2023, arXiv 2305.10697)."""
    raise NotImplementedError


def _weigh_of(program: Program) -> Any:
    if not program.weighted:
        return _weigh_not
    return _weigh_constant if program.rate == "constant" and program.rule != "watkins-q-lambda" else _weigh


def _weigh(program, constants, log_weights, table, row, action, rate):
    log_weights[table, row, action] -= np.log1p(-rate)


def _weigh_constant(program, constants, log_weights, table, row, action, rate):
    log_weights[table, row, action] += constants.log_weight


def _weigh_not(program, constants, log_weights, table, row, action, rate): ...


@part
def move(program, constants, table, index, row, action, target, share):
    """Moves one value towards its target by share * eta."""
    rate = learning_rate(program, constants, table.visits, index, row, action) * share
    old = table.values[index, row, action]
    table.values[index, row, action] = old + rate * (target - old)
    weigh(program, constants, table.log_weights, index, row, action, rate)


@dispatched(lambda program: _BOOTSTRAPS[program.rule])
def bootstrap(program, parameters, constants, values, state, row, action, best, coin, age):
    """What the value of a state counts as, given the action chosen in it and the greedy value there."""
    raise NotImplementedError


def _bootstrap_best(program, parameters, constants, values, state, row, action, best, coin, age):
    return np.float64(best)


def _bootstrap_chosen(program, parameters, constants, values, state, row, action, best, coin, age):
    return np.float64(values[0, row, action])


def _bootstrap_expected(program, parameters, constants, values, state, row, action, best, coin, age):
    return np.float64(expected(program, parameters, constants, values, state, row, best, age))


def _bootstrap_double(program, parameters, constants, values, state, row, action, best, coin, age):
    """van Hasselt 2010: the table that is updated chooses, the other one evaluates."""
    chosen, _ = greedy_of_table(program, parameters, constants, values, coin, state, row, action)
    return np.float64(values[1 - coin, row, chosen])


@part
def greedy_of_table(program, parameters, constants, values, table, state, row, incumbent):
    """The best action of one of two tables, and its value there."""
    chosen, best = incumbent, values[table, row, incumbent]
    for action in range(constants.num_actions):
        candidate = values[table, row, action]
        if candidate > best and allowed(program, parameters, state, action):
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
def learn(
    program, parameters, constants, table, history, walker, row, action, reward, bootstrapped, continues, coin
):
    """Learns from one step; `bootstrapped` is 0 where the episode terminated.

    `continues` is true where the walker's next step follows on this one and its action is a greedy one: returns
    of several steps and traces reach no further.
    """
    raise NotImplementedError


def _learn_one_step(
    program, parameters, constants, table, history, walker, row, action, reward, bootstrapped, continues, coin
):
    move(program, constants, table, 0, row, action, reward + constants.discount * bootstrapped, 1.0)


def _learn_double(
    program, parameters, constants, table, history, walker, row, action, reward, bootstrapped, continues, coin
):
    move(program, constants, table, coin, row, action, reward + constants.discount * bootstrapped, 1.0)


def _learn_tree_backup(
    program, parameters, constants, table, history, walker, row, action, reward, bootstrapped, continues, coin
):
    """n-step tree backup towards the greedy policy (Precup et al. 2000; Sutton and Barto 2018, section 7.5).

    For a greedy target policy the tree is a chain: the return runs through greedy actions and ends, with the
    best value, before the first that is not.
    """
    length = _remember(history, walker, row, action, reward)
    if continues and length < constants.history_length:
        return
    target = bootstrapped
    for i in range(length - 1, -1, -1):
        target = history.reward[walker, i] + constants.discount * target
        if i == 0 or not continues:
            move(program, constants, table, 0, history.row[walker, i], history.action[walker, i], target, 1.0)
    _forget(history, walker, 1 if continues else length)


def _learn_watkins(
    program, parameters, constants, table, history, walker, row, action, reward, bootstrapped, continues, coin
):
    """Watkins' Q(lambda) with accumulating traces, cut at actions that are not greedy (Watkins 1989).

    A trace ends where it has decayed to nothing: the kept pairs are `history_length`, the newest with trace 1.
    """
    if history.length[walker] == constants.history_length:
        _forget(history, walker, 1)
    length = _remember(history, walker, row, action, reward)
    error = reward + constants.discount * bootstrapped - table.values[0, row, action]
    rate, trace = learning_rate(program, constants, table.visits, 0, row, action), 1.0
    for i in range(length - 1, -1, -1):
        past_row, past_action = history.row[walker, i], history.action[walker, i]
        table.values[0, past_row, past_action] += rate * trace * error
        weigh(program, constants, table.log_weights, 0, past_row, past_action, rate * trace)
        trace *= constants.discount * constants.trace_decay
    if not continues:
        _forget(history, walker, length)


_LEARNERS: dict[str, Any] = {
    "q-learning": _learn_one_step,
    "double-q-learning": _learn_double,
    "sarsa": _learn_one_step,
    "expected-sarsa": _learn_one_step,
    "tree-backup": _learn_tree_backup,
    "watkins-q-lambda": _learn_watkins,
}


@part
def _remember(history, walker, row, action, reward):
    """Adds a step to a walker's history, and says how long it is now."""
    length = history.length[walker]
    history.row[walker, length] = row
    history.action[walker, length] = action
    history.reward[walker, length] = reward
    history.length[walker] = length + 1
    return length + 1


@part
def _forget(history, walker, count):
    """Takes the oldest steps off a walker's history."""
    length = history.length[walker] - count
    for i in range(length):
        history.row[walker, i] = history.row[walker, i + count]
        history.action[walker, i] = history.action[walker, i + count]
        history.reward[walker, i] = history.reward[walker, i + count]
    history.length[walker] = length
