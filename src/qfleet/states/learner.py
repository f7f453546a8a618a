"""One worker's environments, stepped in Python, and its table, which a compiled function moves after every step."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.single import SingleEnvironment
from qfleet.environments.state import load_environment, save_environment
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.states.environments import environment_error, episode_seed, mask_of
from qfleet.states.observing import ENDED, NOT_FINITE, Mask, Steps, enter, observe, observe_tiles
from qfleet.states.pinned import Pinned, resolved
from qfleet.tabular.learner import Advance, make_history, make_walkers, no_totals
from qfleet.tabular.records import EPISODE_STEPS, EPISODES, STEPS, Table

if TYPE_CHECKING:
    from qfleet.states.task import PythonTask


@final
class PythonLearner:
    """Steps its environments in turn, one step each; `advance` may be cut into calls anywhere."""

    def __init__(self, task: "PythonTask", worker: int, table: Table, *, weighted: bool = False) -> None:
        self.task, self.table = task, table
        own = task.walkers_per_worker
        self._walkers = range(worker * own, (worker + 1) * own)
        self._steps = _make_steps(task, table)
        self._allowed, self._actions = self._steps.parameters.allowed, self._steps.walkers.action
        self._is_masked = False
        self._turn = 0
        self._num_seeded = np.zeros(own, np.int64)
        """Resets with a seed of their own, by environment."""
        self._seeded_at = np.full(own, -1)
        """The age at which that was done last, by environment."""
        self._singles: list[SingleEnvironment] = []
        self._compile(weighted=weighted)

    def _compile(self, *, weighted: bool) -> None:
        encoder, program = self.task.encoder, self.task.program(weighted=weighted)
        self._pinned, self._program = Pinned(self._steps), program
        kernel = observe_tiles if encoder.num_tilings else observe
        self._observe = resolved(kernel, program, self._pinned, 0, 0, 0.0, False, False)
        # Only two tables change how a first action is chosen: one compiled function serves the other rules.
        rule = program.rule if program.rule == "double-q-learning" else "q-learning"
        self._entering = replace(program, rule=rule, rate="constant", weighted=False)
        self._enter = resolved(enter, self._entering, self._pinned, 0, 0)
        tiles = self._steps.next_tiles
        self._read = encoder.tile_writer(tiles) if encoder.num_tilings else encoder.reader()

    def _make_environments(self) -> None:
        self._singles = [self.task.factory.make() for _ in self._walkers]
        self._step_functions = [single.env.step for single in self._singles]

    def start(self) -> None:
        """Makes the environments, and chooses the first actions."""
        self._make_environments()
        for i in range(len(self._walkers)):
            self._reset(i, self._next_seed(i))

    def begin_at(self, num_steps: int) -> None:
        """Before the environments are made: together they have made `num_steps` steps; episodes have other seeds."""
        ages = self._steps.walkers
        ages.age[:] = ages.born[:] = num_steps // self.task.num_walkers
        self._num_seeded[:] = num_steps

    def _next_seed(self, i: int) -> int:
        self._num_seeded[i] += 1
        self._seeded_at[i] = self._steps.walkers.age[self._walkers[i]]
        return episode_seed(self.task.seed, self._walkers[i], int(self._num_seeded[i]))

    def advance(self, budget: int) -> Advance:
        """Makes `budget` steps.

        Raises QfleetError for an error of the environment, NonFiniteError for an observation or reward that is no
        number.
        """
        totals = self._steps.totals
        totals.counts[:] = 0
        totals.returns[:] = 0
        for _ in range(budget):
            self._step(self._turn)
            self._turn = (self._turn + 1) % len(self._walkers)
        counts = totals.counts.tolist()
        return Advance(counts[STEPS], counts[EPISODES], counts[EPISODE_STEPS], float(totals.returns[0]))

    def _step(self, i: int) -> None:
        """One step of one environment; what it raises is named, but for errors that have a line of their own."""
        walker = self._walkers[i]
        action = int(self._actions[walker]) + self._singles[i].action_start
        try:
            observation, reward, terminated, truncated, info = self._step_functions[i](action)
        except Exception as error:
            raise environment_error(self._where(walker), f"action {action}", error) from error
        try:
            if self._is_masked or "action_mask" in info:
                self._take_mask(info)
            state = self._read(observation)
            chosen = self._observe(self._program, self._pinned, walker, state, reward, terminated, truncated)
        except (QfleetError, TypeError, ValueError) as error:
            raise self._unusable(walker, error) from error
        if chosen < 0:
            self._end(i, chosen, reward)

    def _end(self, i: int, chosen: int, reward: Any) -> None:
        """After an episode's last step; raises for a step that could not be learned from."""
        if chosen == ENDED:
            return self._reset(i, None)
        where = self._where(self._walkers[i])
        if chosen == NOT_FINITE:
            raise NonFiniteError(f"{where} gave the reward {reward}; rewards must be finite")
        raise QfleetError(f"{where} gave an action mask that allows no action; it has to allow at least one")

    def _reset(self, i: int, seed: int | None) -> None:
        walker = self._walkers[i]
        try:
            observation, info = self._singles[i].env.reset(seed=seed)
        except Exception as error:
            raise environment_error(self.task.factory.name, "reset", error) from error
        try:
            self._take_mask(info)
            chosen = self._enter(self._entering, self._pinned, walker, self._read(observation))
        except (QfleetError, TypeError, ValueError) as error:
            raise self._unusable(walker, error) from error
        if chosen < 0:
            self._end(i, chosen, 0.0)

    def _take_mask(self, info: dict[str, Any]) -> None:
        mask = mask_of(info, self.task.num_actions)
        self._is_masked = mask is not None
        self._allowed[:] = True if mask is None else mask

    def _where(self, walker: int) -> str:
        age, born = self._steps.walkers.age[walker], self._steps.walkers.born[walker]
        return f"{self.task.factory.name}: step {age + 1 - born} of an episode of environment {walker}"

    def _unusable(self, walker: int, error: Exception) -> QfleetError:
        kind = type(error) if isinstance(error, QfleetError) else QfleetError
        return kind(f"{self._where(walker)}: {error}")

    def measured(self) -> dict[str, float]:
        """Nothing beside what topologies measure."""
        return {}

    def sample_pairs(self) -> NDArray[np.int64]:
        """Rows and actions of the environments' states, as numbers row * num_actions + action (of the first tiling)."""
        here = slice(self._walkers.start, self._walkers.stop)
        tiled = self._steps.next_tiles.size
        rows = self._steps.tiles[here, 0] if tiled else self._steps.walkers.state[here]
        return rows * self.task.num_actions + self._steps.walkers.action[here]

    def close(self) -> None:
        """Closes the environments, except one that was handed in as an object."""
        for single in self._singles if not self.task.factory.is_object else ():
            single.env.close()
        self._singles = []

    def save_state(self) -> dict[str, Any]:
        """Everything but the table's values.

        Episodes of environments whose state cannot be had end here, and others begin with a seed of their own, so
        that a run that is resumed and one that goes on do the same.
        """
        saved = {str(i): save_environment(single.env) for i, single in enumerate(self._singles)}
        for i, state in saved.items():
            if state is None and self._seeded_at[int(i)] != self._steps.walkers.age[self._walkers[int(i)]]:
                self._cut(int(i))
        return {
            "walkers": {key: array.copy() for key, array in self._steps.walkers._asdict().items()},
            "history": {key: array.copy() for key, array in self._steps.history._asdict().items()},
            "visits": self.table.visits.copy(),
            "tiles": self._steps.tiles.copy(),
            "turn": self._turn,
            "num_seeded": self._num_seeded.copy(),
            "seeded_at": self._seeded_at.copy(),
            "environments": {i: state for i, state in saved.items() if state is not None},
        }

    def _cut(self, i: int) -> None:
        """Ends an episode that is not over: it counts in no mean, and what it had yet to learn is dropped."""
        walkers, walker = self._steps.walkers, self._walkers[i]
        walkers.born[walker], walkers.episode_return[walker] = walkers.age[walker], 0.0
        self._steps.history.length[walker] = 0
        self._reset(i, self._next_seed(i))

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse, into the arrays that are there already, with newly made environments."""
        self.close()
        self._make_environments()
        for record, name in ((self._steps.walkers, "walkers"), (self._steps.history, "history")):
            for key, array in record._asdict().items():
                array[...] = state[name][key]
        self.table.visits[...] = state["visits"]
        self._steps.tiles[...] = state["tiles"]
        self._turn = int(state["turn"])
        self._num_seeded[...], self._seeded_at[...] = state["num_seeded"], state["seeded_at"]
        for i, single in enumerate(self._singles):
            self._restore(i, single, state["environments"].get(str(i)))

    def _restore(self, i: int, single: SingleEnvironment, saved: dict[str, NDArray[Any]] | None) -> None:
        """Puts an environment where the saved one was: in the middle of its episode, or at the first state."""
        if saved is not None:
            return load_environment(single.env, saved)
        single.env.reset(seed=episode_seed(self.task.seed, self._walkers[i], int(self._num_seeded[i])))


def _make_steps(task: "PythonTask", table: Table) -> Steps:
    """Arrays at their beginning, around the table that exists."""
    count, num_tilings, constants = task.num_walkers, task.encoder.num_tilings, task.constants()
    row = np.zeros((1, 1, task.num_actions))
    return Steps(
        parameters=Mask(np.ones(task.num_actions, np.bool_)),
        constants=constants,
        table=table._replace(values=row) if num_tilings else table,
        walkers=make_walkers(task.seed, count),
        history=make_history(count, constants.history_length),
        totals=no_totals(),
        weights=table.values if num_tilings else row[:, :0],
        tiles=np.zeros((count, num_tilings), np.int64),
        next_tiles=np.zeros(num_tilings, np.int64),
    )
