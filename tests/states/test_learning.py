"""Masks, tiles, borders from play, evaluation, resume and errors, on environments stepped in Python."""

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest

from qfleet.errors import NonFiniteError, QfleetError
from qfleet.states.config import StatesConfig
from qfleet.states.evaluation import evaluate
from qfleet.states.task import make_python_task
from qfleet.tabular.config import TabularConfig

from .chains import MAX_EPISODE_STEPS, Chain, learner_of, python_task

CAR: dict[str, Any] = {"discretize": 8, "tilings": 8, "bounds": (-1.2, 0.6, -0.07, 0.07)}


def test_taxi_never_takes_a_masked_action():
    class Watched(gymnasium.Wrapper):
        def reset(self, **arguments):
            observation, self.info = self.env.reset(**arguments)
            return observation, self.info

        def step(self, action):
            assert self.info["action_mask"][action], "a masked action was taken"
            observation, reward, terminated, truncated, self.info = self.env.step(action)
            return observation, reward, terminated, truncated, self.info

    def make():
        return Watched(gymnasium.make("Taxi-v4", disable_env_checker=True))

    learner = learner_of(python_task(make, "q-learning", 30_000, learning_rate=0.5, walkers=2))
    learner.advance(30_000)
    learned = learner.table.values[0]
    assert (learned != 0).sum() > 1000
    masks = np.array([gymnasium.make("Taxi-v4").unwrapped.action_mask(state) for state in range(500)])  # pyright: ignore[reportAttributeAccessIssue]
    assert not learned[masks == 0].any()
    evaluated = evaluate(
        make, StatesConfig(), learner.task.encoder, np.where(learned == 0, -100, learned), 3, 0, 50
    )
    assert evaluated is not None and evaluated.lengths.max() <= 50


@pytest.mark.parametrize("rule", ["sarsa", "q-learning"])
def test_tile_coding_climbs_the_mountain(rule):
    settings: dict[str, Any] = {
        "learning_rate": 0.5,
        "discount": 1.0,
        "exploration_initial": 0.0,
        "exploration_final": 0.0,
    }
    task = python_task("MountainCar-v0", rule, 40_000, **CAR, **settings)
    assert task.shape == (1, 8 * 81, 3)
    learner = learner_of(task)
    learner.advance(40_000)
    states = StatesConfig(**CAR)
    evaluated = evaluate("MountainCar-v0", states, task.encoder, learner.table.values[0], 10, 5, 200)
    assert evaluated is not None and evaluated.mean > -170  # random play: -200, always
    learner.close()


def test_one_tile_moves_by_its_share_of_the_error():
    task = python_task("MountainCar-v0", "q-learning", 100, **CAR, learning_rate=0.4, initial_value=8.0)
    learner = learner_of(task)
    assert (learner.table.values == 1.0).all()
    learner.advance(1)
    changed = learner.table.values[learner.table.values != 1.0]
    # From Q = 8 to the target -1 + 0.99 * 8, an eighth of 0.4 of the way on each of the eight tiles.
    np.testing.assert_allclose(changed, [1 + 0.4 / 8 * (-1 + 0.99 * 8 - 8)] * 8)
    learner.close()


def test_borders_come_from_play_and_depend_on_the_seed_alone():
    tasks = [python_task("CartPole-v1", discretize=6, seed=seed) for seed in (1, 1, 2)]
    knots = [task.encoder.knots for task in tasks]
    assert knots[0].shape == (4, 7) and tasks[0].shape == (1, 6**4, 2)
    np.testing.assert_array_equal(knots[0], knots[1])
    assert (knots[0] != knots[2]).any() and (np.diff(knots[0]) > 0).all()
    again = make_python_task(
        "CartPole-v1",
        StatesConfig(discretize=6),
        "q-learning",
        TabularConfig(),
        9,
        10,
        1,
        tasks[0].encoder.state(),
    )
    np.testing.assert_array_equal(again.encoder.knots, knots[0])


SAVED = [
    (Chain, "tree-backup", {"max_episode_steps": MAX_EPISODE_STEPS}),
    ("FrozenLake-v1", "watkins-q-lambda", {}),
    ("CartPole-v1", "q-learning", {"discretize": 4, "learning_rate_schedule": "visits"}),
    ("MountainCar-v0", "sarsa", CAR),
]


@pytest.mark.parametrize(("source", "rule", "settings"), SAVED)
def test_a_resumed_run_ends_with_the_same_bits(source, rule, settings):
    task = python_task(source, rule, 900, walkers=2, **settings)
    straight = learner_of(task)
    straight.advance(301)
    state, values = pickle.loads(pickle.dumps((straight.save_state(), straight.table.values)))  # noqa: S301
    straight.advance(599)
    table = task.make_table(values)
    resumed = pickle.loads(pickle.dumps(task)).make_learner(0, table)  # noqa: S301
    resumed.load_state(state)
    resumed.advance(599)
    assert resumed.table.values.tobytes() == straight.table.values.tobytes()
    first, second = straight.save_state(), resumed.save_state()
    for record in ("walkers", "history"):
        for key, array in first[record].items():
            np.testing.assert_array_equal(array, second[record][key])
    for learner in (straight, resumed):
        learner.close()


def test_a_checkpoint_cuts_episodes_that_cannot_be_saved_and_counts_them_nowhere():
    learner = learner_of(python_task(Chain, exploration="uniform"))
    learner.advance(2)
    state = learner.save_state()
    assert not state["environments"]
    assert state["walkers"]["state"].tolist() == [0] and state["walkers"]["episode_return"].tolist() == [0.0]
    advance = learner.advance(500)
    assert advance.episode_steps <= 500
    assert learner_of(python_task("FrozenLake-v1")).save_state()["environments"].keys() == {"0"}


FAULTS = [
    (ValueError("broken inside"), QfleetError, "Chain: step 1 .*action .* raised ValueError: broken inside"),
    ((1, float("nan")), NonFiniteError, "Chain: step 1 .* gave the reward nan"),
    ((0, 99), QfleetError, "Chain: step 1 .*observation 99 is outside its space, the whole numbers 7 to 11"),
    ((1, None), QfleetError, "Chain: step 1 of"),
    ((4, {"action_mask": np.zeros(3, np.int8)}), QfleetError, "allows no action"),
    ((4, {"action_mask": np.ones(2, np.int8)}), QfleetError, r"shape \(2,\)"),
]


def _faulty(faults):
    def Chain_():  # noqa: N802
        return Chain(faults)

    Chain_.__name__ = "Chain"
    return Chain_


@pytest.mark.parametrize(("fault", "kind", "says"), FAULTS)
def test_errors_name_the_environment_and_the_step(fault, kind, says):
    learner = learner_of(python_task(_faulty({1: fault})))
    with pytest.raises(kind, match=says) as caught:
        learner.advance(10)
    if isinstance(fault, Exception):
        assert caught.value.__cause__ is fault
    learner.close()


def test_an_observation_that_is_no_number_is_named():
    class Broken(gymnasium.ObservationWrapper):
        def observation(self, observation):
            return observation * (np.nan if self.unwrapped.state[0] > 0.05 else 1)  # pyright: ignore[reportAttributeAccessIssue]

    task = python_task(lambda: Broken(gymnasium.make("CartPole-v1")), discretize=2, bounds=(-1.0, 1.0) * 4)
    learner = learner_of(task)
    with pytest.raises(
        NonFiniteError, match=r"step \d+ of an episode of environment 0: observation .* is not finite"
    ):
        learner.advance(2000)


REFUSED = [
    ("CartPole-v1", {}, "--discretize 10"),
    ("MountainCar-v0", {**CAR, "rule": "tree-backup"}, "tree-backup does not work with tile coding"),
    (Chain(), {"walkers": 2}, "2 environments of one object"),
    (lambda: gymnasium.make("Pendulum-v1"), {"discretize": 3}, "Discrete actions work"),
    ("FrozenLake-v1", {"wrappers": ("NoSuchWrapper",)}, "NoSuchWrapper"),
]


@pytest.mark.parametrize(("source", "settings", "says"), REFUSED)
def test_what_cannot_be_is_said_before_the_first_step(source, settings, says):
    with pytest.raises(QfleetError, match=says):
        python_task(source, **settings)


def test_evaluation_is_greedy_fresh_capped_and_can_be_interrupted():
    task = python_task(Chain)
    values = np.tile([0.0, 1.0, 0.5], (5, 1))
    evaluated = evaluate(Chain, StatesConfig(), task.encoder, values, 3, 1, 100)
    assert evaluated is not None
    np.testing.assert_allclose(evaluated.returns, [1 - 3 * 0.02] * 3)
    assert evaluated.lengths.tolist() == [4, 4, 4]
    left = evaluate(Chain, StatesConfig(), task.encoder, values[:, [1, 2, 0]], 2, 1, 9)
    assert left is not None and left.lengths.tolist() == [9, 9]
    assert evaluate(Chain, StatesConfig(), task.encoder, values, 3, 1, 100, lambda: True) is None
    with pytest.raises(QfleetError, match="evaluation episode 0 raised ValueError: broken"):
        evaluate(_faulty({2: ValueError("broken")}), StatesConfig(), task.encoder, values, 1, 1, 100)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stepping": "fast"}, "must be one of"),
        ({"discretize": 1}, "at least 2"),
        ({"discretize": -1}, "negative"),
        ({"tilings": 4}, "--discretize 8"),
        ({"bounds": (0.0, 1.0)}, "only with --discretize"),
        ({"discretize": 3, "bounds": (1.0, 0.0)}, "higher"),
        ({"discretize": 3, "bounds": (1.0, 2.0, 3.0)}, "every dimension"),
        ({"discretize": 3, "stepping": "compiled"}, "stepped in Python"),
        ({"environment_options": ("is_slippery",)}, "key=value"),
    ],
)
def test_settings_are_checked(settings, says):
    with pytest.raises(QfleetError, match=says):
        StatesConfig(**settings)
