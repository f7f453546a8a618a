"""What theory says of averaged learning: noise falls with workers, rounds may be so long, worlds must be one.

Ranks are simulated: learners that take turns in one process and are merged by the functions that workers use.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qfleet.tabular.learner import TableLearner, Task
from qfleet.tabular.merging import merge_equal
from qfleet.worlds.mdp import MDP
from tests.tabular.learning import CONFIG, exact_solution
from tests.tabular.small_worlds import dense, garnet, in_one_form

EXPLORING = replace(
    CONFIG,
    discount=0.8,
    learning_rate_schedule="constant",
    exploration_initial=1.0,
    exploration_final=1.0,
    walkers=4,
)


def ranks(
    mdps: list[MDP], learning_rate: float, seed: int, initial: NDArray[np.float64]
) -> list[TableLearner]:
    """One learner for each MDP, with a table (num_states, num_actions) of its own."""
    config = replace(EXPLORING, learning_rate=learning_rate)
    learners = []
    for rank, mdp in enumerate(mdps):
        task = Task(mdp.world(), "q-learning", config, seed, total_steps=1, num_workers=len(mdps))
        learners.append(task.make_learner(rank, task.make_table(initial[None].copy())))
        learners[-1].start()
    return learners


def merged_rounds(learners: list[TableLearner], local_steps: int, rounds: int) -> NDArray[np.float64]:
    """The table (num_states, num_actions) after some rounds."""
    for _ in range(rounds):
        for learner in learners:
            learner.advance(local_steps)
        merged = merge_equal([learner.table.values for learner in learners])
        for learner in learners:
            learner.table.values[...] = merged
    return learners[0].table.values[0]


def with_clear_choices(seed: int) -> MDP:
    """Two actions that lead to the same states, one of them for 1 more: which is best is never in doubt.

    Episodes of one step make the visits independent: there is noise alone, and none of the bias that grows with
    the learning rate where one update comes after the other along a path.
    """
    transitions, rewards = dense(garnet(seed, num_states=5, num_actions=2))
    transitions[:, 1], rewards[:, 1] = transitions[:, 0], rewards[:, 0] + 1
    return in_one_form(MDP.from_arrays(transitions, rewards, max_episode_steps=1, name="clear choices"))


def with_equal_choices(seed: int) -> MDP:
    """Four actions that are all alike: the largest of noisy values is too large."""
    transitions, rewards = dense(garnet(seed, num_states=5, num_actions=4))
    transitions[:], rewards[:] = transitions[:, :1], rewards[:, :1]
    return in_one_form(MDP.from_arrays(transitions, rewards, name="equal choices"))


def noise_slope(num_seeds: int) -> float:
    """Of log error against log K, K = 1 to 32."""
    mdp = with_clear_choices(0)
    solution = exact_solution(mdp, 0.8, "greedy")
    counts = np.array([1, 2, 4, 8, 16, 32])
    errors = [
        np.mean(
            [
                solution.error(merged_rounds(ranks([mdp] * workers, 0.02, seed, solution.values), 600, 12))
                for seed in range(num_seeds)
            ]
        )
        for workers in counts
    ]
    return float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def test_the_noise_falls_with_the_square_root_of_the_number_of_workers():
    assert -0.6 <= noise_slope(30) <= -0.4


@pytest.mark.soak
def test_the_noise_falls_with_the_square_root_of_the_number_of_workers_many_seeds():
    assert -0.55 <= noise_slope(300) <= -0.45


WORKERS, RATE, PAIRS = 8, 0.1, 20
"""20 pairs, so 20 steps update each of them once: eta tau = RATE * steps / PAIRS."""


def error_with_rounds_of(local_steps: int, num_seeds: int) -> float:
    """Mean over seeds of the final error, after the same number of steps whatever the rounds."""
    mdp = with_equal_choices(1)
    solution = exact_solution(mdp, 0.8, "greedy")
    steps = 6000
    return float(
        np.mean(
            [
                solution.error(
                    merged_rounds(
                        ranks([mdp] * WORKERS, RATE, seed, solution.values), local_steps, steps // local_steps
                    )
                )
                for seed in range(num_seeds)
            ]
        )
    )


def test_the_error_is_flat_in_the_length_of_rounds_up_to_its_bound_and_grows_beyond():
    bound = min((1 - 0.8) / (8 * 0.8), 1 / WORKERS)
    within = int(bound / RATE * PAIRS)
    assert within == 6
    shortest, longest_allowed, far_beyond = (
        error_with_rounds_of(steps, seeds) for steps, seeds in ((3, 10), (within, 10), (3000, 40))
    )
    assert longest_allowed < 1.25 * shortest
    assert far_beyond > 1.5 * longest_allowed


def differing_worlds() -> tuple[list[MDP], MDP]:
    """Two deterministic MDPs with the same rewards and other transitions, and their mean.

    Episodes of one step from anywhere visit all pairs alike in both, so that the mean is what both have in common.
    """
    arrays = [dense(garnet(seed, num_states=6, num_actions=2, branching=1)) for seed in (1, 2)]
    rewards = arrays[0][1]
    mdps = [
        in_one_form(MDP.from_arrays(transitions, rewards, max_episode_steps=1)) for transitions, _ in arrays
    ]
    mean = MDP.from_arrays((arrays[0][0] + arrays[1][0]) / 2, rewards)
    return mdps, in_one_form(mean)


def test_workers_on_differing_worlds_converge_with_short_rounds_and_never_with_long_ones():
    mdps, mean = differing_worlds()
    solution = exact_solution(mean, 0.8, "greedy")
    nothing = np.zeros((6, 2))
    short = solution.error(merged_rounds(ranks(mdps, 0.05, 0, nothing), 12, 800))
    long = [
        solution.error(merged_rounds(ranks(mdps, 0.05, 0, nothing), 24_000, rounds)) for rounds in (10, 40)
    ]
    assert short < 0.1
    assert min(long) > 5 * short
    assert long[1] > 0.8 * long[0]


def test_workers_on_one_world_converge_however_long_the_rounds():
    mdps, _ = differing_worlds()
    solution = exact_solution(mdps[0], 0.8, "greedy")
    merged = merged_rounds(ranks([mdps[0]] * 2, 0.05, 0, np.zeros((6, 2))), 24_000, 10)
    assert solution.error(merged) < 1e-6
