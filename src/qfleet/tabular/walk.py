"""The learning kernel: walkers step through a world and learn from every step.

Several walkers are stepped in turn inside one loop, so that while one waits for memory the others go on. A call
makes a number of single steps and stops anywhere; the next goes on exactly there, so that how the work is cut
into calls does not change its result.
"""

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from qfleet.kernels import borrowing_kernel, mix, part
from qfleet.tabular.choosing import choose, unit, value
from qfleet.tabular.program import Program, dispatched
from qfleet.tabular.records import EPISODE_STEPS, EPISODES, NO_ACTION, PARKED, STEPS
from qfleet.tabular.rules import bootstrap, learn
from qfleet.tabular.shards import halo_value, note_load, owns, row_of
from qfleet.worlds.world import FUNCTIONS

NUM_LANES = 16
"""Walkers stepped in turn: enough to hide the latency of memory, few enough for their rows to stay in cache."""

TURN_STEPS = 64
"""Steps of each of them before the next walkers' turn."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dispatched(lambda program: _step_of(program))
def step(program, parameters, state, action, random):
    """The world's step."""
    raise NotImplementedError


def _step_of(program: Program):
    function = FUNCTIONS[program.world][0]
    return lambda program, parameters, state, action, random: function(parameters, state, action, random)


@dispatched(lambda program: _reset_of(program))
def reset(program, parameters, random):
    """The world's reset."""
    raise NotImplementedError


def _reset_of(program: Program):
    function = FUNCTIONS[program.world][1]
    return lambda program, parameters, random: function(parameters, random)


@intrinsic
def _prefetch(typing_context, array, index):
    """Asks for the cache line of array.ravel()[index], which may lie anywhere."""

    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        byte_pointer, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte_pointer)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte_pointer, whole, whole, whole]),
            "llvm.prefetch.p0i8",
        )
        builder.call(function, [address, whole(0), whole(3), whole(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


@borrowing_kernel
def walk(
    program,
    parameters,
    constants,
    table,
    walkers,
    history,
    shard,
    residents,
    num_residents,
    cursor,
    budget,
    totals,
    scratch,
):
    """Makes `budget` steps in all with the walkers named in residents[:num_residents]; fewer if all have parked.

    `scratch`: room for the lanes, as `make_scratch` makes it.
    `cursor` (3,): where in the sequence the last call stopped: first of the lanes' walkers, step of the turn, lane.
    Returns 0, or 1 if a step left the world's states or had no finite reward: then `totals` says which.
    """
    lanes, next_state, rewards, terminated = scratch
    made, parked = 0, 0
    while made < budget and parked < num_residents:
        if cursor[0] >= num_residents:
            cursor[:] = 0
        num_lanes = _take_lanes(residents, num_residents, walkers, cursor[0], lanes)
        if cursor[2] >= num_lanes:
            cursor[2] = 0
        while cursor[1] < TURN_STEPS and num_lanes > 0 and made < budget:
            first, last = cursor[2], min(num_lanes, cursor[2] + budget - made)
            fault = _sweep(
                program, parameters, constants, table, walkers, history, shard,
                lanes, first, last, next_state, rewards, terminated, totals,
            )  # fmt: skip
            if fault:
                return 1
            made += last - first
            cursor[2] = 0 if last == num_lanes else last
            if cursor[2] == 0:
                cursor[1] += 1
                num_lanes, num_parked = _drop_parked(program, walkers, lanes, num_lanes)
                parked += num_parked
        if cursor[1] == TURN_STEPS or num_lanes == 0:
            cursor[0] += NUM_LANES
            cursor[1] = cursor[2] = 0
    totals.counts[STEPS] += made
    totals.counts[PARKED] += parked
    return 0


@part
def _take_lanes(residents, num_residents, walkers, first, lanes):
    """The walkers whose turn it is, without those that have parked."""
    num_lanes = 0
    for i in range(first, min(first + NUM_LANES, num_residents)):
        if walkers.action[residents[i]] != NO_ACTION:
            lanes[num_lanes] = residents[i]
            num_lanes += 1
    return num_lanes


@dispatched(lambda program: _drop_parked_sharded if program.sharded else _drop_none)
def _drop_parked(program, walkers, lanes, num_lanes):
    """Takes the walkers that have crossed a border out of the lanes: how many are left, how many went."""
    raise NotImplementedError


def _drop_none(program, walkers, lanes, num_lanes):
    return num_lanes, 0


def _drop_parked_sharded(program, walkers, lanes, num_lanes):
    left = 0
    for lane in range(num_lanes):
        if walkers.action[lanes[lane]] != NO_ACTION:
            lanes[left] = lanes[lane]
            left += 1
    return left, num_lanes - left


@dispatched(lambda program: _sweep_ahead if program.prefetched else _sweep_near)
def _sweep(
    program, parameters, constants, table, walkers, history, shard,
    lanes, first, last, next_state, rewards, terminated, totals,
):  # fmt: skip
    """One step of every walker in lanes[first:last]; 1 if one of them was impossible."""
    raise NotImplementedError


def _sweep_near(
    program, parameters, constants, table, walkers, history, shard,
    lanes, first, last, next_state, rewards, terminated, totals,
):  # fmt: skip
    for lane in range(first, last):
        walker = lanes[lane]
        walkers.random[walker] += _GOLDEN
        random = unit(mix(walkers.random[walker]))
        state, reward, ended = step(
            program, parameters, walkers.state[walker], walkers.action[walker], random
        )
        if not (0 <= state < constants.num_states and np.isfinite(reward)):
            return _note_fault(walkers, totals, walker, state, reward)
        _finish(
            program,
            parameters,
            constants,
            table,
            walkers,
            history,
            shard,
            walker,
            state,
            reward,
            ended,
            totals,
        )
    return 0


def _sweep_ahead(
    program, parameters, constants, table, walkers, history, shard,
    lanes, first, last, next_state, rewards, terminated, totals,
):  # fmt: skip
    """The same in two passes, so that the rows which the second needs are on their way from memory by then."""
    for lane in range(first, last):
        walker = lanes[lane]
        walkers.random[walker] += _GOLDEN
        random = unit(mix(walkers.random[walker]))
        state, reward, ended = step(
            program, parameters, walkers.state[walker], walkers.action[walker], random
        )
        if not (0 <= state < constants.num_states and np.isfinite(reward)):
            return _note_fault(walkers, totals, walker, state, reward)
        next_state[lane], rewards[lane], terminated[lane] = state, reward, ended
        _prefetch(table.values, row_of(program, shard, state) * constants.num_actions)
    for lane in range(first, last):
        _finish(
            program, parameters, constants, table, walkers, history, shard,
            lanes[lane], next_state[lane], rewards[lane], terminated[lane], totals,
        )  # fmt: skip
    return 0


@part
def _note_fault(walkers, totals, walker, next_state, reward):
    totals.fault[0], totals.fault[1] = walker, walkers.state[walker]
    totals.fault[2], totals.fault[3] = walkers.action[walker], next_state
    totals.fault_reward[0] = reward
    return 1


@part
def _finish(
    program,
    parameters,
    constants,
    table,
    walkers,
    history,
    shard,
    walker,
    next_state,
    reward,
    terminated,
    totals,
):
    """Learns from a step that was made, and chooses the walker's next action, or begins its next episode."""
    state, action, age = walkers.state[walker], walkers.action[walker], walkers.age[walker]
    row, next_row = row_of(program, shard, state), row_of(program, shard, next_state)
    walkers.random[walker] += _GOLDEN
    bits = mix(walkers.random[walker])
    coin = np.int64(bits & np.uint64(1))
    truncated = age + 1 - walkers.born[walker] >= constants.max_episode_steps
    at_home = owns(program, shard, next_row)
    next_action, bootstrapped, is_greedy = np.int64(NO_ACTION), 0.0, False
    if at_home:
        next_action, best = choose(
            program, parameters, constants, table.values, next_state, next_row, bits, age
        )
        is_greedy = value(program, table.values, next_row, next_action) == best
        worth = bootstrap(
            program, parameters, constants, table.values, next_state, next_row, next_action, best, coin, age
        )
        bootstrapped = 0.0 if terminated else worth
    elif not terminated:
        bootstrapped = halo_value(shard, constants, next_state, coin)
    if at_home or terminated or not waits(program):
        continues = is_greedy and at_home and not terminated and not truncated
        learn(
            program, parameters, constants, table, history, walker, row, action, reward, bootstrapped,
            continues, coin,
        )  # fmt: skip
    else:
        walkers.origin[walker], walkers.origin_action[walker] = row, action
        walkers.origin_reward[walker] = reward
    note_load(program, shard, row)
    walkers.age[walker] = age + 1
    walkers.episode_return[walker] += reward
    if terminated or truncated:
        _end_episode(walkers, walker, totals)
        walkers.random[walker] += _GOLDEN
        next_state = np.int64(reset(program, parameters, unit(mix(walkers.random[walker]))))
        next_row = row_of(program, shard, next_state)
        next_action = np.int64(NO_ACTION)
        if owns(program, shard, next_row):
            walkers.random[walker] += _GOLDEN
            next_action, _ = choose(
                program, parameters, constants, table.values, next_state, next_row,
                mix(walkers.random[walker]), age + 1,
            )  # fmt: skip
    walkers.state[walker], walkers.action[walker] = next_state, next_action


@part
def _end_episode(walkers, walker, totals):
    totals.counts[EPISODES] += 1
    totals.counts[EPISODE_STEPS] += walkers.age[walker] - walkers.born[walker]
    totals.returns[0] += walkers.episode_return[walker]
    walkers.born[walker] = walkers.age[walker]
    walkers.episode_return[walker] = 0.0


@dispatched(lambda program: _waits if program.rule == "sarsa" and program.sharded else _waits_not)
def waits(program):
    """Whether a step across a border waits for the value of the action that the owner chooses."""
    raise NotImplementedError


def _waits(program):
    return True


def _waits_not(program):
    return False


@borrowing_kernel
def admit(program, parameters, constants, table, walkers, shard, residents, num_residents, answers):
    """Lets walkers that have just begun or arrived choose their action; `answers[i]` is its value (SARSA)."""
    for i in range(num_residents):
        walker = residents[i]
        if walkers.action[walker] != NO_ACTION:
            continue
        state = walkers.state[walker]
        row = row_of(program, shard, state)
        walkers.random[walker] += _GOLDEN
        walkers.action[walker], _ = choose(
            program, parameters, constants, table.values, state, row, mix(walkers.random[walker]),
            walkers.age[walker],
        )  # fmt: skip
        answers[i] = value(program, table.values, row, walkers.action[walker])
