"""The learning kernel: walkers step through a world and learn from every step.

Several walkers are stepped in turn inside one loop, so that while one waits for memory the others go on. A call
makes a number of single steps and stops anywhere; the next goes on exactly there, so that how the work is cut
into calls does not change its result.
"""

from typing import Any

import numpy as np

from qfleet.kernels import borrowing_kernel, mix, part, prefetch
from qfleet.tabular.choosing import choose, unit, value
from qfleet.tabular.program import Program, dispatched
from qfleet.tabular.records import EPISODE_STEPS, EPISODES, NO_ACTION, PARKED, STEPS
from qfleet.tabular.rules import bootstrap, coin_of, learn
from qfleet.tabular.shards import halo_value, note_load, owns, row_of
from qfleet.worlds.world import FUNCTIONS

NUM_LANES = 16
"""Walkers stepped in turn: enough to hide the latency of memory, few enough for their rows to stay in cache."""

TURN_STEPS = 64
"""Steps of each of them before the next walkers' turn."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dispatched(lambda program: _step_of(program))
def step(program, parameters, state, action, random) -> Any:
    """The world's step."""
    raise NotImplementedError


def _step_of(program: Program) -> Any:
    function = FUNCTIONS[program.world][0]
    return lambda program, parameters, state, action, random: function(parameters, state, action, random)


@dispatched(lambda program: _reset_of(program))
def reset(program, parameters, random) -> Any:
    """The world's reset."""
    raise NotImplementedError


def _reset_of(program: Program) -> Any:
    function = FUNCTIONS[program.world][1]
    return lambda program, parameters, random: function(parameters, random)


@dispatched(lambda program: _approach_of(program))
def approach(program, parameters, state) -> Any:
    """Lets the world ask for the memory that a step from a state will need."""
    raise NotImplementedError


def _approach_of(program: Program) -> Any:
    function = FUNCTIONS[program.world][3]
    if function is None:
        return _approach_nothing
    return lambda program, parameters, state: function(parameters, state)


def _approach_nothing(program, parameters, state): ...


@borrowing_kernel
def walk(program, work, budget):
    """Makes `budget` steps in all with the resident walkers; fewer if all have parked.

    Returns 0, or 1 if a step left the world's states or had no finite reward: then work.totals.fault says which.
    """
    residents, cursor, lanes = work.residents, work.cursor, work.lanes
    made, parked_before = 0, work.totals.counts[PARKED]
    while made < budget and work.totals.counts[PARKED] - parked_before < residents.size:
        if cursor[0] >= residents.size:
            cursor[:] = 0
        num_lanes, num_parked = _take_lanes(program, work, cursor[0]), work.totals.counts[PARKED]
        if cursor[2] >= num_lanes:
            cursor[2] = 0
        while cursor[1] < TURN_STEPS and num_lanes > 0 and made < budget:
            first, last = cursor[2], min(num_lanes, cursor[2] + budget - made)
            if first == 0:  # one of the lanes stands for all of this sweep
                note_load(program, work, work.lanes.walker[cursor[1] % num_lanes], num_lanes)
            if _sweep(program, work, first, last):
                return 1
            made += last - first
            cursor[2] = 0 if last == num_lanes else last
            if cursor[2] == 0:
                cursor[1] += 1
                if work.totals.counts[PARKED] != num_parked:
                    num_parked = work.totals.counts[PARKED]
                    num_lanes = _drop_parked(work, num_lanes)
        if cursor[1] == TURN_STEPS or num_lanes == 0:
            cursor[0] += lanes.walker.size
            cursor[1] = cursor[2] = 0
    work.totals.counts[STEPS] += made
    return 0


@part
def _take_lanes(program, work, first):
    """Fills the lanes with the walkers whose turn it is, without those that have parked."""
    num_lanes = 0
    for i in range(first, min(first + work.lanes.walker.size, work.residents.size)):
        walker = work.residents[i]
        if work.walkers.action[walker] != NO_ACTION:
            work.lanes.walker[num_lanes] = walker
            num_lanes += 1
    return num_lanes


@part
def _drop_parked(work, num_lanes):
    """Takes the walkers that have crossed a border out of the lanes, and says how many are left."""
    left = 0
    for lane in range(num_lanes):
        walker = work.lanes.walker[lane]
        if work.walkers.action[walker] != NO_ACTION:
            work.lanes.walker[left] = walker
            left += 1
    return left


@dispatched(lambda program: _sweep_ahead if program.prefetched else _sweep_near)
def _sweep(program, work, first, last) -> Any:
    """One step of every walker in lanes first to last - 1; 1 if one of them was impossible."""
    raise NotImplementedError


def _sweep_near(program, work, first, last):
    for lane in range(first, last):
        walker = work.lanes.walker[lane]
        state, reward, terminated = make_step(program, work, walker)
        if not (0 <= state < work.constants.num_states and np.isfinite(reward)):
            return note_fault(work, walker, state, reward, 0)
        if _finish(program, work, walker, state, reward, terminated):
            return 1
    return 0


def _sweep_ahead(program, work, first, last):
    """The same in two passes, so that the rows which the second needs are on their way from memory by then."""
    lanes = work.lanes
    for lane in range(first, last):
        walker = lanes.walker[lane]
        state, reward, terminated = make_step(program, work, walker)
        if not (0 <= state < work.constants.num_states and np.isfinite(reward)):
            return note_fault(work, walker, state, reward, 0)
        lanes.next_state[lane], lanes.reward[lane], lanes.terminated[lane] = state, reward, terminated
        row = row_of(program, work, state)
        prefetch(work.table.values, row * work.constants.num_actions)
        approach(program, work.parameters, state)
    for lane in range(first, last):
        walker = lanes.walker[lane]
        if _finish(program, work, walker, lanes.next_state[lane], lanes.reward[lane], lanes.terminated[lane]):
            return 1
    return 0


@part
def draw(work, walker):
    """A walker's next 64 random bits."""
    work.walkers.random[walker] += _GOLDEN
    return mix(work.walkers.random[walker])


@part
def make_step(program, work, walker):
    """The world's step by a walker, which stays where it is: (next state, reward, terminated)."""
    random = unit(draw(work, walker))
    walkers = work.walkers
    return step(program, work.parameters, walkers.state[walker], walkers.action[walker], random)


@part
def note_fault(work, walker, next_state, reward, by_reset):
    """Writes down a step, or a reset, that no world may make; 1."""
    fault = work.totals.fault
    fault[0], fault[1] = walker, work.walkers.state[walker]
    fault[2], fault[3], fault[4] = work.walkers.action[walker], next_state, by_reset
    work.totals.fault_reward[0] = reward
    return 1


@part
def _finish(program, work, walker, next_state, reward, terminated):
    """Learns from a step that was made, and chooses the walker's next action, or begins its next episode."""
    walkers = work.walkers
    state, action, age = walkers.state[walker], walkers.action[walker], walkers.age[walker]
    row, next_row = row_of(program, work, state), row_of(program, work, next_state)
    bits = draw(work, walker)
    coin = coin_of(program, bits)
    ends = terminated or age + 1 - walkers.born[walker] >= work.constants.max_episode_steps
    next_action, bootstrapped, continues = np.int64(NO_ACTION), 0.0, False
    is_here = owns(program, work, next_row)
    if is_here:
        next_action, best = choose(program, work, next_state, next_row, bits, age)
        continues = not ends and value(program, work, next_row, next_action) == best
        worth = bootstrap(program, work, next_state, next_row, next_action, best, coin, age)
        bootstrapped = 0.0 if terminated else worth
    elif not terminated:
        bootstrapped = halo_value(work, next_state, coin)
    if waits(program) and not (is_here or ends):
        walkers.origin[walker], walkers.origin_action[walker] = row, action
        walkers.origin_reward[walker] = reward
    elif is_here or bootstrapped == bootstrapped:
        learn(program, work, walker, row, action, reward, bootstrapped, continues, coin)
    walkers.age[walker] = age + 1
    walkers.episode_return[walker] += reward
    if ends:
        end_episode(work, walker)
        return start_episode(program, work, walker)
    walkers.state[walker], walkers.action[walker] = next_state, next_action
    if not is_here:
        work.totals.counts[PARKED] += 1
    return 0


@part
def end_episode(work, walker):
    """Adds an episode that ended to the totals."""
    walkers, totals = work.walkers, work.totals
    totals.counts[EPISODES] += 1
    totals.counts[EPISODE_STEPS] += walkers.age[walker] - walkers.born[walker]
    totals.returns[0] += walkers.episode_return[walker]
    walkers.born[walker] = walkers.age[walker]
    walkers.episode_return[walker] = 0.0


@part
def start_episode(program, work, walker):
    """Resets a walker; where its first state is another worker's, the action is left to that one."""
    state = np.int64(reset(program, work.parameters, unit(draw(work, walker))))
    if not 0 <= state < work.constants.num_states:
        return note_fault(work, walker, state, 0.0, 1)
    row, action = row_of(program, work, state), np.int64(NO_ACTION)
    if owns(program, work, row):
        action, _ = choose(program, work, state, row, draw(work, walker), work.walkers.age[walker])
    else:
        work.totals.counts[PARKED] += 1
    work.walkers.state[walker], work.walkers.action[walker] = state, action
    return 0


@dispatched(lambda program: _waits if program.rule == "sarsa" and program.rows != "whole" else _waits_not)
def waits(program) -> Any:
    """Whether a step across a border waits for the value of the action that the owner chooses.

    One that is truncated there does not: the walker goes elsewhere, and no action is ever chosen.
    """
    raise NotImplementedError


def _waits(program):
    return True


def _waits_not(program):
    return False


@borrowing_kernel
def begin(program, work):
    """Puts the resident walkers into their first states, which are not checked."""
    for i in range(work.residents.size):
        walker = work.residents[i]
        work.walkers.state[walker] = reset(program, work.parameters, unit(draw(work, walker)))


@borrowing_kernel
def admit(program, work, answers):
    """Lets walkers that have just begun or arrived choose their action; answers[i] is its value, for SARSA."""
    for i in range(work.residents.size):
        walker = work.residents[i]
        if work.walkers.action[walker] == NO_ACTION:
            state = work.walkers.state[walker]
            row = row_of(program, work, state)
            bits = draw(work, walker)
            action, _ = choose(program, work, state, row, bits, work.walkers.age[walker])
            work.walkers.action[walker] = action
            answers[i] = value(program, work, row, action)
