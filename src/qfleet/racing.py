"""A race: every parallel scheme on the same world for the same number of steps, against the exact solution.

Where they are not given, the settings are those of training but for epsilon, which stays at a half. What is compared
is the largest error of any pair, so that all pairs must go on being visited; and yet the walkers are drawn to where
the policy leads, so that the loads of the parts of a world are as uneven as in training.
"""

import difflib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from qfleet.assembly import Problem, check
from qfleet.choices import is_rule
from qfleet.contestant import SCHEMES, Contestant, Scheme, compared, curve_steps
from qfleet.deep.support import Backend
from qfleet.environments.identifiers import find_spec, unknown
from qfleet.errors import QfleetError
from qfleet.exact_solution import ExactSolution, solve_exactly
from qfleet.experiment import make_settings
from qfleet.interruption import Interrupted, Interruption
from qfleet.race_layout import grid_layout
from qfleet.runs.durable import canonical_json, write_atomically
from qfleet.runs.folder import RunFolder
from qfleet.runs.race_record import RaceRecord, SchemeRecord, race_to_json
from qfleet.runs.race_report import write_race_report
from qfleet.sources import Source, as_world, source_name, world_of
from qfleet.states.config import StatesConfig
from qfleet.table_assembly import make_task, make_world, refuse_too_large
from qfleet.tabular.program import Rule
from qfleet.worlds.catalogue import FAMILIES
from qfleet.worlds.world import World

RACE_DEFAULTS: dict[str, Any] = {"exploration_initial": 0.5, "exploration_final": 0.5}
"""Settings of the table that a race begins from instead of those of training."""
_STEPS_PER_PAIR = 16384
_FEWEST_STEPS, _MOST_STEPS = 10_000_000, 400_000_000
_LONGEST_HORIZON = 1e6


@final
@dataclass(frozen=True)
class RaceStatus:
    """Where a race is."""

    scheme: str
    """Whose turn it is."""
    phase: Literal["preparing", "training", "finished"]
    """preparing: its workers start and compile, which is not timed."""
    total_steps: int
    """Environment steps it will make."""
    steps: int = 0
    """Environment steps it has made."""
    seconds: float = 0.0
    """Spent training."""
    error: float | None = None
    """Largest distance from the exact solution; None where that is not known."""


@final
@dataclass(frozen=True)
class Race:
    """What came out, and where it is written."""

    record: RaceRecord
    folder: Path
    """With race.json and report.html."""
    interrupted_by: int = 0
    """The signal that ended it before all schemes were finished; 0: none did."""

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


RaceCallback = Callable[[RaceStatus], object]


def race(
    world: Source,
    *,
    workers: int = 2,
    steps: int = 0,
    algorithm: Rule = "q-learning",
    backend: Backend = "threads",
    seed: int = 0,
    out: str | Path | None = None,
    on_status: RaceCallback = lambda status: None,
    on_message: Callable[[str], object] = lambda line: None,
    **settings: Any,
) -> Race:
    """Races serial, shared, averaged (equal, visits) and partitioned learning on a world, for `steps` steps each.

    `world`: a World, an MDP, or a name as in `train`; what has to be stepped in Python cannot race. `steps` 0: 16384
    for each state-action pair, from 10 to 400 million. `settings` are fields of TabularConfig and of StatesConfig.
    `on_message` is told what a person should know, such as why errors cannot be measured. SIGINT and SIGTERM end
    the race with the schemes that are finished. Raises QfleetError for settings that cannot be, before anything is
    started.
    """
    with Interruption() as interruption:
        values = settings | {"algorithm": algorithm, "backend": backend, "seed": seed, "steps": steps}
        problems = _problems(world, workers, values)
        with _new_folder(problems["serial"], None if out is None else Path(out)) as folder:
            running = _Running(problems, interruption, on_status, on_message)
            found = Race(running.record(), folder, interruption.signal_number)
            _write(found)
    return found


def default_steps(world: World) -> int:
    """Steps of each scheme where none are given."""
    steps = _STEPS_PER_PAIR * world.num_states * world.num_actions
    return min(max(steps, _FEWEST_STEPS), _MOST_STEPS)


def _problems(source: Source, workers: int, values: Mapping[str, Any]) -> dict[str, Problem]:
    """Every scheme's problem, by its name, all of them checked."""
    if workers < 2:
        raise QfleetError(
            f"--workers {workers}: a race is of several workers against one; --workers 2 or more works"
        )
    if not is_rule(values["algorithm"]):
        raise QfleetError(
            f"--algorithm {values['algorithm']} learns no table, so it cannot race; q-learning can"
        )
    steps = values["steps"] or default_steps(_world(source, values))
    common = {**RACE_DEFAULTS, **values, "steps": steps}
    problems = {
        scheme.name: Problem(make_settings(source, None, common | _own(scheme, workers)), source)
        for scheme in SCHEMES
    }
    for problem in problems.values():
        check(problem)
        found = make_world(problem)
        assert found is not None
        refuse_too_large(problem, make_task(problem, found))
    return problems


def _own(scheme: Scheme, workers: int) -> dict[str, Any]:
    """The settings in which a scheme differs from the others."""
    if scheme.topology == "serial":
        return {"topology": "serial", "backend": "threads"}
    merge = {} if scheme.merge is None else {"merge": scheme.merge}
    return {"topology": scheme.topology, "workers": workers, **merge}


def _world(source: Source, values: Mapping[str, Any]) -> World:
    """What is raced on; raises QfleetError where kernels cannot step it."""
    names = ("environment_options", "import_modules")
    states = StatesConfig(**{name: values[name] for name in names if name in values})
    found = world_of(source, states)
    if found is not None:
        return as_world(found)
    if isinstance(source, str) and find_spec(source) is None:
        raise _unknown(source)
    raise QfleetError(
        f"{source_name(source)} has no table of transitions, which a race needs; GridWorld-64, FrozenLake8x8-v1 "
        "and worlds of your own have one"
    )


def _unknown(name: str) -> QfleetError:
    """Says which world, or else which environment, has nearly that name."""
    family, dash, size = name.partition("-")
    near = difflib.get_close_matches(family, FAMILIES, 1)
    if not near:
        return unknown(name)
    example = f"{near[0]}{dash}{size}" if size.isdigit() else FAMILIES[near[0]].example
    return QfleetError(f"world {name!r} is unknown; did you mean {example}?")


@contextmanager
def _new_folder(problem: Problem, out: Path | None) -> Iterator[Path]:
    """The race's folder; gone again if there is nothing to put into it."""
    settings = problem.settings
    path = RunFolder.create("race", settings.environment, settings.run.seed, out=out).path
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if out is None:
            with suppress(OSError):  # it holds other runs
                path.parent.rmdir()
        raise


def _write(race: Race) -> None:
    path = race.folder / "race.json"
    try:
        write_atomically(path, canonical_json(race_to_json(race.record)))
    except OSError as error:
        raise QfleetError(f"{path} cannot be written: {error.strerror}") from error
    write_race_report(race.record, race.report)


@final
class _Running:
    """The schemes, one after the other, on one exact solution."""

    def __init__(
        self,
        problems: dict[str, Problem],
        interruption: Interruption,
        on_status: RaceCallback,
        on_message: Callable[[str], object],
    ) -> None:
        self._problems, self._interruption, self._on_status = problems, interruption, on_status
        world = make_world(problems["serial"])
        assert world is not None
        self._world = world
        self._exact = self._solved(on_message)
        self._layout = grid_layout(world, self._exact)

    def _solved(self, on_message: Callable[[str], object]) -> ExactSolution | None:
        try:
            exact = solve_exactly(self._world, self._problems["serial"].settings)
        except QfleetError as error:
            on_message(f"errors are not measured: {error}")
            return None
        if exact is None:
            known = self._world.mdp is not None
            why = (
                "it is too large to be solved"
                if known
                else "its transitions are known to its functions alone"
            )
            on_message(f"errors are not measured: {self._world.name} has no exact solution, {why}")
        return exact

    def record(self) -> RaceRecord:
        """What came out; raises Interrupted if not even serial was finished."""
        found: list[SchemeRecord] = []
        try:
            for scheme in SCHEMES:
                result = self._run(scheme)
                if result is None:
                    break
                found.append(result)
        except Interrupted:
            if not found:
                raise
        self._interruption.noticed()
        if not found:
            raise Interrupted(self._interruption.signal_number)
        return self._record([compared(result, found[0], self._rounding_error()) for result in found])

    def _run(self, scheme: Scheme) -> SchemeRecord | None:
        """From its first step to its last; None if interrupted meanwhile."""
        problem = self._problems[scheme.name]
        total = problem.settings.run.steps
        self._on_status(RaceStatus(scheme.name, "preparing", total))
        with Contestant(scheme, problem, self._exact) as contestant:
            contestant.prepare()
            self._interruption.begin_orderly()
            self._on_status(_status(contestant, "training"))
            for target in curve_steps(total):
                while contestant.num_steps < target:
                    if self._interruption:
                        return None
                    contestant.advance(target)
                    self._on_status(_status(contestant, "training"))
                contestant.measure()
            self._on_status(_status(contestant, "finished"))
            return contestant.record(self._interruption, self._layout)

    def _rounding_error(self) -> float:
        """What rounding may leave of a table's error: that of one update, over the horizon."""
        if self._exact is None:
            return 0.0
        config = self._problems["serial"].settings.tabular
        horizon = min(1 / max(1 - config.discount, 1e-300), _LONGEST_HORIZON)
        largest = np.abs(self._exact.values[self._exact.counted]).max(initial=0.0)
        return float(4 * np.finfo(config.dtype).eps * largest * horizon)

    def _record(self, schemes: list[SchemeRecord]) -> RaceRecord:
        settings = self._problems[SCHEMES[-1].name].settings
        limit = settings.run.max_evaluation_steps
        exact, longest = self._exact, min(limit, self._world.max_episode_steps or limit)
        return RaceRecord(
            world=settings.environment,
            num_states=self._world.num_states,
            num_actions=self._world.num_actions,
            discount=settings.tabular.discount,
            steps=settings.run.steps,
            workers=settings.run.workers,
            backend=settings.run.backend,
            seed=settings.run.seed,
            grid_shape=None if self._layout is None else self._layout.shape,
            optimal_return=None if exact is None else exact.mdp.optimal_return(longest),
            schemes=tuple(schemes),
            is_complete=len(schemes) == len(SCHEMES),
        )


def _status(contestant: Contestant, phase: Literal["training", "finished"]) -> RaceStatus:
    total = contestant.problem.settings.run.steps
    return RaceStatus(
        contestant.scheme.name, phase, total, contestant.num_steps, contestant.seconds, contestant.error
    )
