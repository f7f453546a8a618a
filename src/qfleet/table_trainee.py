"""A table that learns, under any topology of tables."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.assembly import Problem, make_fleet, with_workers
from qfleet.errors import FleetError, QfleetError
from qfleet.evaluation import Evaluation
from qfleet.exact_solution import ExactSolution, solve_exactly
from qfleet.fleet import Fleet
from qfleet.fleet_view import FleetView
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.saved_tables import SavedTables
from qfleet.table_assembly import make_subject, make_topology, refuse_too_large
from qfleet.table_values import TableValues
from qfleet.topologies.partitioned import Partitioned
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.table_learning import RoundsReport, TableLearning
from qfleet.topologies.table_team import TableTopology
from qfleet.trainee import Progressed, Trainee

_TURNS = 200
_LONGEST_TURN_STEPS = 2**25
_FIRST_STEPS = 2**12
_SMALL_TABLE_BYTES = 2**26
_LOOK_SECONDS = 2.0
"""Between two looks at what room the cluster has."""
_LONGEST_TURN_SECONDS = 1.0
"""Signals are heard, and workers that hang are told from slow ones, between two calls of theirs."""


@final
class TableTrainee(Trainee):
    """Workers and their tables; they are started by the first turn, so that values alone need none."""

    def __init__(self, problem: Problem, report: Callable[[str], None]) -> None:
        self._problem, self._report, self._run = problem, report, problem.settings.run
        self._subject = make_subject(problem)
        refuse_too_large(problem, self._subject.task)
        self._stack = ExitStack()
        self._fleet: Fleet | None = None
        self._topology: TableLearning | None = None
        self._restarts = Restarts(self._run.allowed_restarts, report)
        self._next_look = 0.0
        self._given: dict[str, Any] | None = None
        self._reports: list[RoundsReport] = []
        self._exact: ExactSolution | None = None
        self._is_solved = False
        self._largest_change: float | None = None
        self._num_rounds = 0

    @property
    def num_steps(self) -> int:
        """Environment steps of all workers."""
        return 0 if self._topology is None else self._topology.num_steps

    @property
    def num_updates(self) -> int:
        """Where every step is learned from, as many."""
        return 0 if self._topology is None else self._topology.num_updates

    @property
    def reward_threshold(self) -> float | None:
        """The environment's own."""
        return self._subject.reward_threshold

    @property
    def keeps_best(self) -> bool:
        """A table's values are the latest: they converge, and max_error speaks of them."""
        return False

    @property
    def exact(self) -> ExactSolution | None:
        """What the rule converges to, where it is known; solved when first asked for."""
        if not self._is_solved and self._subject.world is not None:
            try:
                self._exact = solve_exactly(self._subject.world, self._problem.settings)
            except QfleetError as error:
                if self._run.exact == "yes" or self._run.until_error is not None:
                    raise
                self._report(f"not solved exactly: {error}")
        self._is_solved = True
        if self._exact is None and self._run.until_error is not None:
            raise QfleetError(
                "--until-error needs the exact solution, which is not known here; --until-change works anywhere"
            )
        return self._exact

    def _started(self) -> TableLearning:
        if self._topology is None:
            given = self._given
            self._begin(lambda topology: None if given is None else self._give(topology, given))
        assert self._topology is not None
        return self._topology

    def _begin(self, prepare: Callable[[TableLearning], None], num_steps: int = 0) -> None:
        """Starts workers, gives them what they begin from, and compiles; others, if one of them is lost meanwhile."""
        if self._fleet is None:
            self._fleet = make_fleet(self._problem)
            self._stack.callback(self._fleet.close)
        while self._topology is None:
            topology = make_topology(self._problem, self._subject.task, self._fleet, self._restarts)
            try:
                prepare(topology)
                topology.prepare()
                self._topology = topology
            except FleetError as error:
                self._restarts.spend(error, num_steps)
                topology.end()

    def prepare(self) -> None:
        """Solves exactly where that is wanted, starts the workers, compiles."""
        _ = self.exact
        self._started()

    def turns(self) -> Iterator[Progressed]:
        """A two-hundredth of the run at each turn, to the end of a round; slow ones are parts of that."""
        exact, total = self.exact, self._run.steps
        length = max(1, min(total // _TURNS, _LONGEST_TURN_STEPS))
        most = _FIRST_STEPS
        while self._started().num_steps < total:
            self._fit_into_cluster()
            topology = self._started()
            before = topology.num_steps
            end = min(total, before - before % length + length)
            is_partial = True
            while is_partial:
                made, started = topology.num_steps, time.perf_counter()
                self._reports = topology.advance(min(end, made + most), self._run.until_change)
                self._num_rounds += self._reports[0].rounds
                seconds = max(time.perf_counter() - started, 1e-6)
                most = max(1, int((topology.num_steps - made) / seconds * _LONGEST_TURN_SECONDS))
                is_partial = topology.num_steps < end and not self._is_still
                yield self._progressed(before, exact, is_partial=is_partial)

    def _fit_into_cluster(self) -> None:
        """Has as many workers as there is room for now, if that was asked for: looked at every few seconds."""
        recovery = self._fleet.recovery if self._fleet is not None else None
        if not self._run.max_workers or recovery is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        workers = max(1, min(self._run.max_workers, recovery.room()))
        if workers != self._run.workers:
            self._report(
                f"the cluster has room for {workers} workers now, instead of {self._run.workers}; they go on from step "
                f"{self.num_steps:,}"
            )
            self._have_workers(workers)

    def _have_workers(self, workers: int) -> None:
        """Goes on with another number of workers."""
        state = self.save_state()
        self._started().end()
        self._topology = self._given = None
        self._problem = with_workers(self._problem, workers)
        self._run = self._problem.settings.run
        self._subject = make_subject(self._problem, state["encoder"] or None)
        self.load_state(state)

    @property
    def _is_still(self) -> bool:
        """Whether values change so little that the run is to stop."""
        change, limit = self._reports[0].largest_change if self._reports else None, self._run.until_change
        return change is not None and limit is not None and change <= limit

    def _progressed(self, before: int, exact: ExactSolution | None, *, is_partial: bool) -> Progressed:
        episodes = sum(report.advance.episodes for report in self._reports)
        returns = sum(report.advance.returns for report in self._reports)
        lengths = sum(report.advance.episode_steps for report in self._reports)
        interval, steps = self._run.evaluation_interval, self.num_steps
        is_due = self._run.until_error is not None or steps // interval > before // interval
        is_due = not is_partial and (is_due or steps >= self._run.steps)
        return Progressed(
            episodes,
            (returns / episodes,) if episodes else (),
            (lengths / episodes,) if episodes else (),
            self._reports[0].largest_change,
            self._error_to_stop_at() if exact is not None and is_due else None,
            is_partial,
        )

    def _error_to_stop_at(self) -> float | None:
        """The error; where it is small enough to stop, that of values that nobody changes any more."""
        error, wanted = self.error(), self._run.until_error
        if error is None or wanted is None or error > wanted:
            return error
        self._started().come_to_rest()
        return self.error()

    def error(self) -> float | None:
        """The largest distance from the exact fixed point; None where that is not known."""
        exact = self.exact
        if exact is None:
            return None
        topology = self._started()
        if not self._is_looked_up:
            return exact.error(self.values())
        assert isinstance(topology, Partitioned)
        cut = topology.cut()
        shards = [cut.states(rank) for rank in range(cut.num_workers)]
        return max(exact.error(self._rows_of(states), states) for states in shards if states.size)

    def values(self) -> NDArray[Any]:
        """(num_states, num_actions): the table; of two their mean."""
        return self._mean(self._started().values())

    def _rows_of(self, states: NDArray[np.int64]) -> NDArray[Any]:
        """(n, num_actions): rows of states (n,), wherever they are."""
        topology = self._started()
        assert isinstance(topology, Partitioned)
        return self._mean(topology.look_up(states))

    @staticmethod
    def _mean(tables: NDArray[Any]) -> NDArray[Any]:
        return tables[0] if len(tables) == 1 else (tables[0] + tables[1]) / 2

    @property
    def _keeps_shards(self) -> bool:
        return getattr(self._problem.settings.topology, "keep_shards", False)

    @property
    def _is_looked_up(self) -> bool:
        """Whether rows are looked up in the shards where they lie: there is no room for a second, whole table."""
        task = self._subject.task
        is_small = np.prod(task.shape) * task.dtype.itemsize <= _SMALL_TABLE_BYTES
        return isinstance(self._topology, Partitioned) and (self._keeps_shards or not is_small)

    def exploration_rate(self) -> float:
        """Epsilon now."""
        return self._problem.settings.tabular.exploration_rate(self.num_steps, self._run.steps)

    def evaluate(self, num_episodes: int, seed: int, interrupted: Callable[[], bool]) -> Evaluation | None:
        """Plays greedy episodes with the values as they are now."""
        if self._topology is None and self._given is not None:
            given = TableValues.from_state(self._given)
            values = given.merged() if given.is_whole else given.rows
        else:
            values = self._rows_of if self._is_looked_up else self.values()
        return self._subject.play(values, num_episodes, seed, interrupted)

    def metrics(self, progressed: Progressed) -> dict[str, float]:
        """The error, and what the topology measures."""
        values = {f"fleet/{name}": value for name, value in self._measured().items()}
        if self.view() is not None:
            values |= self._started().role_metrics()
        if progressed.error is not None:
            values["train/max_error"] = progressed.error
        if progressed.largest_change is not None:
            values["train/largest_change"] = progressed.largest_change
        return values

    def view(self) -> FleetView | None:
        """Workers, and their exchanges; None if there is only one."""
        if self._topology is None or self._run.workers == 1:
            return None
        return self._topology.view()

    def _measured(self) -> dict[str, float]:
        """What the topology measures, the mean over its workers."""
        names = self._reports[0].extras if self._reports else {}
        return {name: float(np.mean([report.extras[name] for report in self._reports])) for name in names}

    def between_checkpoints(self, store: CheckpointStore) -> None:
        """There is nothing to write ahead."""

    def save_state(self) -> dict[str, Any]:
        """Tables, walkers and counters."""
        topology = self._started()
        state = topology.save_state()  # first: members of some come to rest for it
        return {
            "tables": topology.save_tables(),
            "topology": state,
            "rounds": self._num_rounds,
            "encoder": self._subject.encoder,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._take_encoder(state["encoder"])
        self._num_rounds = state["rounds"]
        self._topology = None
        self._begin(lambda topology: self._put_back(topology, state), state["topology"]["num_steps"])

    def _put_back(self, topology: TableLearning, state: dict[str, Any]) -> None:
        """What was saved; by as many workers as there are now, if there were others."""
        if not isinstance(topology, TableTopology):
            return topology.load_state(state["topology"])  # the values are the members'
        saved = SavedTables(state)
        if saved.num_workers == self._run.workers:
            topology.load_tables(state["tables"])
            return topology.load_state(state["topology"])
        if isinstance(topology, Partitioned):
            topology.set_rows(saved.rows)
        else:
            topology.set_values(saved.rows(np.arange(self._subject.task.shape[1])))
        topology.begin_at(saved.num_steps, saved.rounds, saved.visits)

    def _take_encoder(self, encoder: dict[str, Any]) -> None:
        if encoder:
            self._subject = make_subject(self._problem, encoder)

    def values_state(self) -> dict[str, Any]:
        """The table, or its shards."""
        if self._topology is None and self._given is not None:
            return self._given
        return self.values_of({"tables": self._started().save_tables(), "encoder": self._subject.encoder})

    @staticmethod
    def values_of(state: dict[str, Any]) -> dict[str, Any]:
        """The table in a whole state, or its shards."""
        tables, encoder = state["tables"], {"encoder": state["encoder"]} if state["encoder"] else {}
        if "shards" not in tables:
            return {"values": TableTrainee._mean(tables["values"]), **encoder}
        shards = {name: TableTrainee._mean(shard) for name, shard in tables["shards"].items()}
        return {**tables, "shards": shards, **encoder}

    def load_values(self, state: dict[str, Any]) -> None:
        """Takes a table's values; raises QfleetError if they are of another shape."""
        given = TableValues.from_state(state)
        shape = (given.num_states, given.num_actions)
        if shape != self._subject.task.shape[1:]:
            raise QfleetError(
                f"the values given are a table of {shape[0]:,} states and {shape[1]} actions; this environment has "
                f"{self._subject.task.shape[1]:,} and {self._subject.task.shape[2]}"
            )
        self._take_encoder(state.get("encoder", {}))
        self._given = state
        if self._topology is not None:
            self._give(self._topology, state)

    def _give(self, topology: TableLearning, state: dict[str, Any]) -> None:
        """Puts values into the workers' tables; into shards one after the other, without a table in between."""
        values, task = TableValues.from_state(state), self._subject.task

        def rows_of(states: NDArray[np.int64]) -> NDArray[Any]:
            rows = values.rows(states).astype(task.dtype, copy=False)
            return np.broadcast_to(rows, (task.shape[0], *rows.shape))

        if isinstance(topology, Partitioned):
            topology.set_rows(rows_of)
        elif values.is_whole:
            topology.set_values(np.broadcast_to(values.merged(), task.shape))
        else:
            topology.set_values(rows_of(np.arange(task.shape[1])))
        topology.forget_snapshot()

    def summary(self) -> dict[str, Any]:
        """The error, the best return there is, and what the topology measured."""
        exact, topology = self.exact, self._started()
        measured: dict[str, Any] = {"max_error": self.error(), "optimal_return": None}
        if exact is not None and self._subject.world is not None:
            limit = self._run.max_evaluation_steps
            measured["optimal_return"] = exact.mdp.optimal_return(
                min(limit, self._subject.world.max_episode_steps or limit)
            )
        if self._num_rounds:
            measured["rounds"] = self._num_rounds
        if self._run.allowed_restarts:
            measured["restarts"] = self._restarts.used
        if self._run.max_workers:
            measured["workers_at_end"] = self._run.workers
        if isinstance(topology, Partitioned):
            measured["rows_of_workers"] = [int(report.extras["num_rows"]) for report in self._reports]
        return measured | {name: value for name, value in self._measured().items() if name != "num_rows"}

    def close(self) -> None:
        """Ends the workers."""
        if self._topology is not None:
            self._topology.close()
        self._stack.close()
