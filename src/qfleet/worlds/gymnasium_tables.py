"""Gymnasium's environments that come with a table of their transitions, as explicit MDPs."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from numpy.typing import NDArray

from qfleet.environments.identifiers import find_spec, unknown
from qfleet.environments.single import make_quietly
from qfleet.environments.wrapping import wrapper_chain
from qfleet.errors import QfleetError
from qfleet.worlds.layout import Layout
from qfleet.worlds.mdp import MDP, make_start
from qfleet.worlds.outcomes import Entries, pack
from qfleet.worlds.validation import checked_allowed

_HARMLESS = (wrappers.TimeLimit, wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)

_GRID_ACTIONS = {
    "FrozenLakeEnv": ("left", "down", "right", "up"),
    "CliffWalkingEnv": ("up", "right", "down", "left"),
}


def has_table(environment: gymnasium.Env) -> bool:
    """Whether the environment has a table P[state][action] of (probability, next state, reward, terminated)."""
    bare = environment.unwrapped
    # A passenger who changes his mind is no part of Taxi's table.
    return isinstance(getattr(bare, "P", None), dict) and not getattr(bare, "fickle_passenger", False)


def mdp_of_gymnasium(environment: str | gymnasium.Env, options: dict[str, Any]) -> MDP:
    """The MDP of an id with options, or of an environment object; see MDP.from_gymnasium."""
    if isinstance(environment, gymnasium.Env):
        if options:
            raise QfleetError(f"options ({', '.join(options)}) work with ids only; set them where it is made")
        return _convert(environment)
    spec = find_spec(environment)
    if spec is None:
        raise unknown(environment)
    made = make_quietly(spec.id, options)
    try:
        return _convert(made)
    finally:
        made.close()


def _convert(environment: gymnasium.Env) -> MDP:
    bare, spec = environment.unwrapped, environment.spec
    name = spec.id if spec is not None else type(bare).__name__
    if not has_table(environment):
        raise QfleetError(
            f"{name} has no complete table of its transitions (env.unwrapped.P), so it cannot be solved exactly; "
            "FrozenLake-v1, CliffWalking-v1 and Taxi-v4 have one, and any environment can be trained on"
        )
    chain = wrapper_chain(environment)[:-1]
    strange = [wrapper for wrapper in chain if not isinstance(wrapper, _HARMLESS)]
    if strange:
        raise QfleetError(
            f"{name} is wrapped in {type(strange[0]).__name__}, which its table knows nothing of; unwrap it"
        )
    limits = [wrapper._max_episode_steps for wrapper in chain if isinstance(wrapper, wrappers.TimeLimit)]
    table: Any = getattr(bare, "P")  # noqa: B009
    shape = (len(table), len(table[0]))
    masks = checked_allowed(name, _masks(name, bare, shape), shape, None)
    entries = _entries(table, shape[1])
    outcomes = pack(name, entries, shape, None, None if masks is None else ~masks)
    return MDP(
        *shape,
        outcomes,
        make_start(name, _start(name, bare), shape[0], None),
        masks,
        name,
        min(limits, default=None),
        None if spec is None else spec.reward_threshold,
        _layout(bare, entries),
    )


def _layout(bare: Any, entries: Entries) -> Layout | None:
    """That of Gymnasium's own gridworlds, whose classes say in which order their actions are."""
    actions = _GRID_ACTIONS.get(type(bare).__name__)
    if actions is None:
        return None
    shape = bare.desc.shape if hasattr(bare, "desc") else bare.shape
    ends = np.unique(entries.next_states[entries.ended])
    return Layout((int(shape[0]), int(shape[1])), actions, tuple(ends.tolist()))


def _entries(table: dict[int, dict[int, list[tuple]]], num_actions: int) -> Entries:
    pairs, rows = [], []
    for state, actions in table.items():
        for action, found in actions.items():
            pairs += [state * num_actions + action] * len(found)
            rows += found
    probabilities, nexts, rewards, ended = zip(*rows, strict=True)
    return Entries(
        np.array(pairs, np.int64),
        np.array(nexts, np.int64),
        np.array(probabilities, np.float64),
        np.array(rewards, np.float64),
        np.array(ended, np.bool_),
    )


def _start(name: str, bare: Any) -> NDArray[np.float64]:
    distribution = getattr(bare, "initial_state_distrib", None)
    if distribution is None:
        raise QfleetError(
            f"{name} does not say where episodes begin (env.unwrapped.initial_state_distrib); give it that attribute"
        )
    return np.asarray(distribution, np.float64)


def _masks(name: str, bare: Any, shape: tuple[int, int]) -> Any:
    """(num_states, num_actions) from env.action_mask(state), which is what info["action_mask"] says in each state.

    They apply as they do where the environment is stepped: an agent that honours info["action_mask"] never
    takes a masked action, so its values are those of the MDP without them. Taxi's masked actions change no
    state, so its optimum is the same.
    """
    if hasattr(bare, "action_mask"):
        return np.array([bare.action_mask(state) for state in range(shape[0])], np.bool_)
    _, info = bare.reset(seed=0)
    if "action_mask" in info:
        raise QfleetError(
            f"{name} masks actions, and its masks of all states are not known; give it a method action_mask(state)"
        )
    return None
