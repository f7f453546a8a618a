"""One core: tables against a plain C loop, a user's world, the Gymnasium loop, and memory-bound tables."""

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
from numba import njit
from timing import verdict

from qfleet import MDP, World
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.learner import TableLearner, Task
from qfleet.worlds.catalogue import make_world

EPSILON = 0.1
STEPS = 20_000_000
NUM_ROUNDS = 5
LARGE_STATES = 10_000_000


def named_world(name: str) -> World:
    world = make_world(name, {})
    assert isinstance(world, World)
    return world


def learner_of(world: World, walkers: int = 0) -> TableLearner:
    config = TabularConfig(exploration_initial=EPSILON, exploration_final=EPSILON, walkers=walkers)
    task = Task(world, "q-learning", config, seed=0, total_steps=100 * STEPS)
    learner = task.make_learner(0, task.make_table(np.zeros(task.shape)))
    learner.start()
    return learner


def rates(functions: dict[str, Callable[[], float]], num_rounds: int = NUM_ROUNDS) -> dict[str, float]:
    """The best of several rounds, in which the functions (each gives seconds for STEPS) take turns."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(num_rounds):
        for name, function in functions.items():
            best[name] = min(best[name], function())
    return {name: STEPS / seconds for name, seconds in best.items()}


def advance_seconds(learner: TableLearner, steps: int = STEPS) -> float:
    start = time.perf_counter()
    learner.advance(steps)
    return (time.perf_counter() - start) * STEPS / steps


def c_seconds(program: Path, side: int) -> float:
    arguments = [str(program), str(side), str(STEPS), str(EPSILON)]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def users_grid(side: int) -> World:
    """The same grid as a user would write it, with the built-in one's idea: a byte of allowed moves a cell."""
    moves = np.full((side, side), 0b1111, np.uint8)
    moves[0] &= 0b1110
    moves[-1] &= 0b1101
    moves[:, 0] &= 0b1011
    moves[:, -1] &= 0b0111
    offsets, goal = np.array([-side, side, -1, 1]), side * side - 1

    def step(parameters, state, action, random):
        moves, offsets, goal = parameters
        next_state = state + offsets[action] * ((np.int64(moves[state]) >> action) & 1)
        return next_state, 1.0 if next_state == goal else 0.0, next_state == goal

    def reset(parameters, random):
        return np.int64(random * parameters[2])

    return World(step, reset, side * side, 4, (moves.ravel(), offsets, goal), max_episode_steps=100 * side)


def against_c() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "grid"
        source = Path(__file__).with_name("grid.c")
        subprocess.run(["gcc", "-O3", "-march=native", "-o", program, source], check=True)
        ours, theirs = learner_of(named_world("GridWorld-64")), learner_of(users_grid(64))
        found = rates(
            {
                "ours": lambda: advance_seconds(ours),
                "user's": lambda: advance_seconds(theirs),
                "C": lambda: c_seconds(program, 64),
            }
        )
    for name, rate in found.items():
        print(f"         GridWorld-64, {name}: {rate / 1e6:.1f} M steps/s")
    reached = verdict("GridWorld-64 against a C loop", found["ours"] / found["C"], "times", at_least=1.5)
    return (
        verdict("a user's own grid", 100 * found["user's"] / found["ours"], "% of the built-in", at_least=90)
        and reached
    )


def gymnasium_seconds(num_steps: int = 100_000) -> float:
    """Seconds for STEPS of the loop that everyone writes, from some fewer."""
    environment, random = gymnasium.make("FrozenLake8x8-v1"), np.random.default_rng(0)
    table = np.zeros((64, 4))
    state, _ = environment.reset(seed=0)
    start = time.perf_counter()
    for _ in range(num_steps):
        if random.random() < EPSILON:
            action = environment.action_space.sample()
        else:
            action = int(np.argmax(table[state]))
        next_state, reward, terminated, truncated, _ = environment.step(action)
        target = float(reward) + 0.99 * np.max(table[next_state]) * (not terminated)
        table[state, action] += 0.1 * (target - table[state, action])
        state = next_state
        if terminated or truncated:
            state, _ = environment.reset()
    return (time.perf_counter() - start) * STEPS / num_steps


def against_gymnasium() -> bool:
    ours = learner_of(MDP.from_gymnasium("FrozenLake8x8-v1").world())
    found = rates({"ours": lambda: advance_seconds(ours), "Gymnasium and NumPy": gymnasium_seconds})
    for name, rate in found.items():
        print(f"         FrozenLake8x8-v1, {name}: {rate / 1e6:.3f} M steps/s")
    ratio = found["ours"] / found["Gymnasium and NumPy"]
    return verdict("FrozenLake8x8-v1 against the Gymnasium loop", ratio, "times", at_least=300)


@njit(nogil=True)
def random_updates(next_state, rewards, table, num_updates):
    """Updates of pairs drawn at random: nothing waits for anything, so memory is as busy as it can be."""
    num_states, num_actions = table.shape
    bits = np.uint64(7)
    for _ in range(num_updates):
        bits += np.uint64(0x9E3779B97F4A7C15)
        mixed = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        state = np.int64(((mixed >> np.uint64(32)) * np.uint64(num_states)) >> np.uint64(32))
        action = np.int64(mixed & np.uint64(3))
        following = next_state[state, action]
        best = table[following, 0]
        for other in range(1, num_actions):
            best = max(best, table[following, other])
        table[state, action] += 0.1 * (rewards[state, action] + 0.99 * best - table[state, action])


def memory_bound() -> bool:
    random = np.random.default_rng(0)
    next_state = random.integers(0, LARGE_STATES, (LARGE_STATES, 4), dtype=np.int32)
    rewards = random.random((LARGE_STATES, 4), np.float32)
    mdp = MDP.from_arrays(next_state, rewards)
    many, one = learner_of(mdp.world()), learner_of(mdp.world(), walkers=1)
    table, number = many.table.values[0], 5_000_000

    def update_seconds() -> float:
        start = time.perf_counter()
        random_updates(next_state, rewards, table, number)
        return (time.perf_counter() - start) * STEPS / number

    random_updates(next_state, rewards, table, 1)
    found = rates(
        {
            "many": lambda: advance_seconds(many, 10_000_000),
            "one": lambda: advance_seconds(one, 3_000_000),
            "random": update_seconds,
        }
    )
    for name, rate in found.items():
        print(f"         10 M states x 4 actions, {name}: {rate / 1e6:.1f} M updates/s")
    reached = verdict("10 M states against one walker", found["many"] / found["one"], "times", at_least=2.5)
    share = 100 * found["many"] / found["random"]
    return verdict("10 M states against random updates", share, "%", at_least=80) and reached


def main() -> bool:
    results = [against_c(), against_gymnasium(), memory_bound()]
    return all(results)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
