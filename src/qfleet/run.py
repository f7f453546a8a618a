"""A run that has ended, in memory or read back from its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from numpy.typing import NDArray

from qfleet.agent import Agent, NetworkAgent, make_table_agent
from qfleet.assembly import Problem, make_trainee
from qfleet.choices import kind_of
from qfleet.deep.evaluation import evaluate
from qfleet.deep.parameters import parameters_of
from qfleet.deep_assembly import make_policy
from qfleet.errors import QfleetError
from qfleet.evaluation import FINAL, Evaluation, evaluation_seed
from qfleet.export import export
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.folder import RunFolder
from qfleet.settings import Settings
from qfleet.sources import Source
from qfleet.table_values import TableValues

if TYPE_CHECKING:
    from torch import nn


@final
class Run:
    """A finished (or interrupted) run."""

    def __init__(
        self, problem: Problem, folder: RunFolder, values_state: dict[str, Any], summary: dict[str, Any]
    ) -> None:
        self.problem, self.folder, self.summary = problem, folder, summary
        self.values_state = values_state
        """The values as checkpoints hold them (`Trainee.values_state`)."""

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def values(self) -> NDArray[Any]:
        """The values: a table's (num_states, num_actions), or a network's (num_parameters,) float32.

        Raises QfleetError for a table whose shards were kept apart (--keep-shards).
        """
        if self.problem.settings.kind == "table":
            return TableValues.from_state(self.values_state).merged()
        return self.values_state["parameters"]

    def agent(self) -> Agent:
        """Acts greedily with the values."""
        return make_agent(self.problem, self.values_state)

    def export(self, path: str | Path) -> None:
        """Writes a table and its greedy policy to a .csv or .npz file; raises QfleetError where that cannot be."""
        export(self, Path(path))

    def evaluate(self, episodes: int = 100, seed: int | None = None) -> Evaluation:
        """Plays greedy episodes that training never saw; the same seed plays the same ones."""
        chosen = evaluation_seed(self.problem.settings.run.seed, FINAL, 0) if seed is None else seed
        play = _evaluate_table if self.problem.settings.kind == "table" else _evaluate_network
        result = play(self.problem, self.values_state, episodes, chosen)
        assert result is not None  # only an interruption, of which there is none here, gives None
        return result


def load(path: str | Path, *, environment: Source | None = None, network: "nn.Module | None" = None) -> Agent:
    """The agent of a run's best checkpoint, or of its newest if none was evaluated yet."""
    folder = RunFolder.open(Path(path))
    problem = problem_of(folder, environment, network)
    return make_agent(problem, read_values(folder))


def load_run(
    path: str | Path, *, environment: Source | None = None, network: "nn.Module | None" = None
) -> Run:
    """A run from its folder, as `train` returned it."""
    folder = RunFolder.open(Path(path))
    problem = problem_of(folder, environment, network)
    try:
        summary = folder.read_summary()
    except QfleetError:
        summary = {}
    return Run(problem, folder, read_values(folder), summary)


def read_values(folder: RunFolder, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The best values of a run, else its newest, as `Trainee.values_state` gives them.

    Raises QfleetError if it has none.
    """
    store = CheckpointStore(folder.checkpoints, report=report)
    best = store.load_best()
    if best is not None:
        return best[1]
    newest = store.load_newest()
    if newest is None:
        raise QfleetError(f"{folder.path} has no checkpoint yet: the run ended before its first")
    if kind_of(Settings.from_json(folder.read_config()).run.algorithm) == "table":
        from qfleet.table_trainee import TableTrainee

        return TableTrainee.values_of(newest[1])
    from qfleet.deep_trainee import DeepTrainee

    return DeepTrainee.values_of(newest[1])


def make_agent(problem: Problem, values_state: dict[str, Any]) -> Agent:
    """An agent that acts with these values."""
    if problem.settings.kind == "table":
        return make_table_agent(problem.source, problem.settings.states, values_state)
    policy = make_policy(problem, problem.description())
    return NetworkAgent(*problem.environments, policy, parameters_of(values_state))


def _evaluate_network(
    problem: Problem, values_state: dict[str, Any], episodes: int, seed: int
) -> Evaluation | None:
    policy = make_policy(problem, problem.description())
    policy.load(parameters_of(values_state))
    environment = problem.evaluation_environment(episodes)
    try:
        return evaluate(environment, policy, episodes, seed, problem.settings.run.max_evaluation_steps)
    finally:
        environment.close()


def _evaluate_table(
    problem: Problem, values_state: dict[str, Any], episodes: int, seed: int
) -> Evaluation | None:
    trainee = make_trainee(problem, lambda line: None)
    try:
        trainee.load_values(values_state)
        return trainee.evaluate(episodes, seed, lambda: False)
    finally:
        trainee.close()


def problem_of(folder: RunFolder, environment: Source | None, network: "nn.Module | None") -> Problem:
    """The problem a run was about; objects that its config cannot hold are given again."""
    settings = Settings.from_json(folder.read_config())
    given = {"environment": environment, "network": network}
    if missing := [name for name in settings.objects if given.get(name) is None]:
        raise QfleetError(
            f"{folder.path} was made from Python objects; in Python, qfleet.resume, load and load_run take them "
            f"again: qfleet.resume({str(folder.path)!r}, {', '.join(f'{name}=...' for name in missing)})"
        )
    return Problem(settings, settings.environment if environment is None else environment, network)
