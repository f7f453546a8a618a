"""Training from settings, and going on with a run."""

import difflib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import gymnasium

from qfleet.assembly import Problem, check, with_workers
from qfleet.backends.mpi_launch import num_ranks
from qfleet.choices import ALGORITHM_CONFIGS, TopologyName, is_rule
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.making import steps_in_python
from qfleet.errors import QfleetError
from qfleet.evaluation import FINAL, evaluation_seed
from qfleet.interruption import Interruption
from qfleet.run import Run, problem_of, read_values
from qfleet.runs.folder import RunFolder, read_json
from qfleet.runs.progress import Progress
from qfleet.runs.report import write_report
from qfleet.settings import RunConfig, Settings
from qfleet.sources import Source, default_algorithm, source_name, world_of
from qfleet.states.config import StatesConfig
from qfleet.tabular.support import SERVICES
from qfleet.training import Status, Training
from qfleet.tuned import default_settings, owner_of, with_values
from qfleet.worlds.mdp import MDP
from qfleet.worlds.world import World

if TYPE_CHECKING:
    from torch import nn

StatusCallback = Callable[[Status], object]


def train(
    environment: Source,
    *,
    config: str | Path | None = None,
    network: "nn.Module | str | None" = None,
    out: str | Path | None = None,
    quiet: bool = True,
    on_status: StatusCallback = lambda status: None,
    **settings: Any,
) -> Run:
    """Trains on an environment: an id, a gymnasium.Env, a function without arguments that makes one, a World or an MDP.

    `settings` are fields of RunConfig, of EnvironmentConfig (networks) or StatesConfig (tables), of the algorithm's
    and of the topology's config, on top of what is tuned for the environment or of a run's `config` (a path to its
    config.json). `network` is your own module from observations (batch, ...) to values (batch, num_actions), or one
    of ours by name. `on_status` is called after every block of steps; return False from it to stop. Raises
    QfleetError for settings that cannot be.
    """
    if isinstance(network, str):
        network, settings = None, settings | {"network": network}
    problem = Problem(make_settings(environment, config, settings), environment, network)
    with new_folder(problem, None if out is None else Path(out)) as folder:
        return run_training(
            problem, folder, quiet=quiet, on_status=on_status, warm_start=_warm_start(problem)
        )


@contextmanager
def begin(
    environment: Source,
    *,
    config: str | Path | None = None,
    network: "nn.Module | None" = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Iterator[Training]:
    """`train` at your own pace: iterate over the Training to make blocks of steps, for as long as you like.

    Every turn gives a Status; `training.trainee` (what learns) and `training.load_best()` are there to look at.
    Evaluation, checkpoints and metrics happen as in `train`; the summary and the report are yours to ask for.
    """
    problem = Problem(make_settings(environment, config, settings), environment, network)
    with (
        new_folder(problem, None if out is None else Path(out)) as folder,
        Training(problem, folder, warm_start=_warm_start(problem)) as training,
    ):
        yield training


def _warm_start(problem: Problem) -> dict[str, Any] | None:
    path = problem.settings.run.warm_start
    return read_values(RunFolder.open(Path(path))) if path else None


@contextmanager
def new_folder(problem: Problem, out: Path | None) -> Iterator[RunFolder]:
    """The new run's folder, made once it is sure that the run can begin; gone again if it then does not."""
    settings = problem.settings
    objects = {"environment": not isinstance(problem.source, str), "network": problem.network is not None}
    settings = replace(settings, objects=tuple(name for name, given in objects.items() if given))
    check(problem)
    folder = RunFolder.create(settings.environment, settings.run.algorithm, settings.run.seed, out=out)
    try:
        folder.write_config(settings.to_json())
        yield folder
    except BaseException:
        if not folder.has_begun:
            shutil.rmtree(folder.path, ignore_errors=True)
            if out is None:
                with suppress(OSError):  # it holds other runs
                    folder.path.parent.rmdir()
        raise


def resume(
    path: str | Path,
    *,
    workers: int | None = None,
    environment: Source | None = None,
    network: "nn.Module | None" = None,
    quiet: bool = True,
    on_status: StatusCallback = lambda status: None,
) -> Run:
    """Goes on from a run's newest sound checkpoint; give again the objects that it was made from.

    With another number of `workers`, which an MPI job of another number of ranks has by itself, tables are divided
    anew, and the episodes under way begin anew.
    """
    folder = RunFolder.open(Path(path))
    problem = with_workers_now(problem_of(folder, environment, network), workers)
    write_if_new(folder, problem.settings)
    return run_training(problem, folder, quiet=quiet, on_status=on_status, resume=True)


def run_training(
    problem: Problem,
    folder: RunFolder,
    *,
    quiet: bool,
    on_status: StatusCallback,
    resume: bool = False,
    warm_start: dict[str, Any] | None = None,
    interruption: Interruption | None = None,
) -> Run:
    """Trains to the end, evaluates, writes the summary and the report.

    An `interruption` that was entered already is used instead of one of its own.
    """
    progress_lines: list[Callable[[str], None]] = []

    def report(line: str) -> None:
        progress_lines[-1](line)

    with ExitStack() as stack:
        if interruption is None:
            interruption = stack.enter_context(Interruption())
        progress_lines.append(Progress(None, quiet=quiet).warning)
        with Training(
            problem, folder, resume=resume, warm_start=warm_start, interruption=interruption, report=report
        ) as training:
            training.prepare()
            with _progress(training, quiet) as progress:
                progress_lines.append(progress.warning)
                for status in training:
                    _show(progress, status)
                    if on_status(status) is False:
                        training.stop("callback")
            values = training.load_best()
            summary = _finish(training, values, interruption)
    write_report([folder.path], folder.report)
    return Run(problem, folder, values, summary)


def _progress(training: Training, quiet: bool) -> Progress:
    return Progress(
        training.problem.settings.run.steps, training.first_step, training.trainee.num_updates, quiet=quiet
    )


def _show(progress: Progress, status: Status) -> None:
    progress.update(
        status.steps,
        status.updates,
        status.mean_return,
        status.exploration_rate,
        status.error,
        status.fleet,
    )
    if status.evaluation is not None:
        mean, error = status.evaluation.mean, status.evaluation.standard_error
        progress.message(f"step {status.steps:>9,}  greedy return {mean:.1f} ± {error:.1f}")


def _finish(training: Training, values: dict[str, Any], interruption: Interruption) -> dict[str, Any]:
    """The summary, with the final evaluation unless the run was told to end quickly."""
    evaluation = None
    if not interruption:
        run = training.problem.settings.run
        if training.trainee.keeps_best:  # else they are what it has
            training.trainee.load_values(values)
        evaluation = training.play(run.final_episodes, evaluation_seed(run.seed, FINAL, 0))
    summary = training.summary(evaluation)
    training.folder.write_summary(summary)
    return summary


def make_settings(environment: Source, config: str | Path | None, values: dict[str, Any]) -> Settings:
    """Tuned or given settings with `values` on top; raises QfleetError for a name that no setting has."""
    name = environment if isinstance(environment, str) else source_name(environment)
    if config is None:
        settings = starting_settings(environment, values)
    else:
        settings = replace(read_settings(Path(config)), environment=name)
        settings = settings.with_algorithm(values.get("algorithm", settings.run.algorithm))
        settings = settings.with_topology(values.get("topology", settings.run.topology))
    settings = with_ranks(settings, values.get("backend"))
    try:
        return with_values(settings, values)
    except KeyError as error:
        raise QfleetError(_no_setting(settings, str(error.args[0]))) from error


def starting_settings(environment: Source, values: dict[str, Any]) -> Settings:
    """What a run begins from before `values` go on top: they decide which algorithm and topology it is."""
    of_states = {item.name: values[item.name] for item in fields(StatesConfig) if item.name in values}
    states = StatesConfig(**of_states)
    algorithm = values.get("algorithm") or default_algorithm(environment, states)
    topology = values.get("topology")
    if algorithm not in ALGORITHM_CONFIGS or topology not in (None, *get_args(TopologyName)):
        RunConfig(algorithm=algorithm, topology=topology or "serial")  # which says what it must be
    if is_rule(algorithm):
        compiled = world_of(environment, states) is not None
    else:
        compiled = not _fights_for_python(environment, values)
    name = environment if isinstance(environment, str) else source_name(environment)
    settings = default_settings(source_name(environment), topology, algorithm, compiled=compiled)
    return replace(settings, environment=name)


def _fights_for_python(environment: Source, values: dict[str, Any]) -> bool:
    """Whether workers on threads would step their environments one at a time."""
    if isinstance(environment, gymnasium.Env | World | MDP):
        return False
    given = {item.name: values[item.name] for item in fields(EnvironmentConfig) if item.name in values}
    return steps_in_python(environment, EnvironmentConfig(**given))


def with_ranks(settings: Settings, backend: str | None) -> Settings:
    """As many workers as this MPI job has ranks, if that is where it is to run: what else is given goes on top."""
    ranks = num_ranks() if (backend or settings.run.backend) == "mpi" else None
    if ranks is None or settings.run.topology in ("serial", "overlapped"):
        return settings
    return replace(settings, run=replace(settings.run, backend="mpi", workers=ranks))


def with_workers_now(problem: Problem, workers: int | None) -> Problem:
    """The problem of a run that goes on, with as many workers as are asked for, or as its MPI job has ranks."""
    run = problem.settings.run
    if workers is not None:
        if workers != run.workers and run.topology in SERVICES:
            raise QfleetError(
                f"--workers {workers}: --topology {run.topology} goes on with as many workers as it had, {run.workers}"
            )
        return with_workers(problem, workers)
    return replace(problem, settings=with_ranks(problem.settings, None))


def write_if_new(folder: RunFolder, settings: Settings) -> None:
    """Other settings than the run had so far go into its config.json, so that the next resume knows them."""
    if settings != Settings.from_json(folder.read_config()):
        with folder.lock():
            folder.write_config(settings.to_json())


def _no_setting(settings: Settings, unknown: str) -> str:
    if owner := owner_of(unknown, settings.kind):
        run = settings.run
        return f"{unknown} belongs to {owner}; this run's are {run.algorithm} and {run.topology}"
    known = [item.name for part in _sections(settings) for item in fields(part)]
    nearest = difflib.get_close_matches(unknown, known, 3)
    hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
    return f"there is no setting {unknown!r}{hint}"


def _sections(settings: Settings) -> tuple[Any, ...]:
    return settings.run, settings.engine, settings.algorithm, settings.topology


def read_settings(path: Path) -> Settings:
    """Settings from a config.json, or from the run folder that holds one."""
    if path.is_dir():
        return Settings.from_json(RunFolder.open(path).read_config())
    if not path.is_file():
        raise QfleetError(f"--config {path}: no such file; a run's config.json, or its folder, works")
    return Settings.from_json(read_json(path))
