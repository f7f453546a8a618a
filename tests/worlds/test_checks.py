"""Mistakes in a user's world: each is one line that names the function and what would work."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from qfleet.errors import NonFiniteError, QfleetError
from qfleet.worlds.world import World


def good(parameters, state, action, random):
    return (state + 1) % 10, 1.0, state == 9


def first(parameters, random):
    return 0


def two_values(parameters, state, action, random):
    return state, 1.0


def dictionary(parameters, state, action, random):
    payments = {0: 1.0}
    return state, payments[0], False


def array(parameters, state, action, random):
    return state, np.zeros(3).sum(), False


def listed(parameters, state, action, random):
    return [1, 2, 3][action], 1.0, False


def negative(parameters, state, action, random):
    return state - 1, 1.0, False


def beyond(parameters, state, action, random):
    return state + 1, 1.0, False


def not_a_number(parameters, state, action, random):
    return state, np.nan, False


def half(parameters, state, action, random):
    return state / 2, 1.0, False


def text(parameters, state, action, random):
    return state, "much", False


def nothing(parameters, state, action, random):
    if random < 0.5:
        return state, 1.0, False


def misnamed(parameters, state, action, random):
    return state, parameters.reward, False


def undefined(parameters, state, action, random):
    return state, payment(state), False  # noqa: F821  # pyright: ignore


def minus_one(parameters, random):
    return -1


def no_action(parameters, state, action):
    return False


def world(step=good, reset=first, **others: Any) -> World:
    return World(step, reset, **{"num_states": 10, "num_actions": 2, "name": "Mine", **others})


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (two_values, "it must return (next_state, reward, terminated)"),
        (dictionary, "step (dictionary) cannot be compiled: it makes an array or another object"),
        (array, "step (array) cannot be compiled: it makes an array or another object"),
        (listed, "put arrays into parameters"),
        (negative, "next_state is -1; states are 0 to 9"),
        (beyond, "next_state is 10; states are 0 to 9"),
        (half, "next_state is 0.0; a state must be a whole number"),
        (text, "the reward must be a number"),
        (nothing, "step returned None"),
        (misnamed, "step (misnamed) cannot be compiled: Unknown attribute 'reward'"),
        (undefined, "name 'payment' is not defined"),
    ],
)
def test_a_step_with_a_mistake(step, said: str) -> None:
    with pytest.raises(QfleetError) as caught:
        world(step).check()
    message = str(caught.value)
    assert said in message and message.startswith("Mine: ") and "\n" not in message and len(message) < 450


def test_a_reward_must_be_finite() -> None:
    with pytest.raises(NonFiniteError, match="reward must be finite"):
        world(not_a_number).check()


def test_where_the_mistake_stands_is_said() -> None:
    with pytest.raises(QfleetError, match=r"test_checks\.py\", line \d+"):
        world(misnamed).check()


def test_a_first_state_and_the_allowed_actions_are_looked_at() -> None:
    with pytest.raises(QfleetError, match="Mine: reset returned -1; states are 0 to 9"):
        world(reset=minus_one).check()
    with pytest.raises(QfleetError, match="allowed gives state 0 no action"):
        world(allowed=no_action).check()


class Limits(NamedTuple):
    largest: np.ndarray


def bounded(limits, state, action, random):
    return min(state + action, limits.largest[0]), -1.0, False


def test_a_good_world_passes() -> None:
    world().check()
    world(bounded, parameters=Limits(np.array([7]))).check()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reset": lambda parameters: 0}, r"it must take \(parameters, random\)"),
        ({"step": lambda state, action: state}, r"it must take \(parameters, state, action, random\)"),
        ({"allowed": lambda state, action: True}, r"it must take \(parameters, state, action\)"),
        ({"step": "step"}, "step is a str; it must be a plain or jitted function"),
        ({"parameters": [1]}, "parameters is a list; it must be a tuple or a NamedTuple"),
        ({"num_states": 0}, "num_states is 0; it must be a whole number of at least 1"),
        ({"num_actions": 2.5}, "num_actions is 2.5"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"grid_shape": (3, 4)}, r"grid_shape \(3, 4\) has no 10 cells"),
    ],
)
def test_what_can_be_seen_at_once_is_refused_at_once(given: dict[str, Any], said: str) -> None:
    with pytest.raises(QfleetError, match=f"^Mine: .*{said}"):
        world(**given)
