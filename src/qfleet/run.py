"""A run that has ended, in memory or read back from its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.agent import Agent
from qfleet.assembly import Problem, make_learner
from qfleet.deep.evaluation import FINAL, Evaluation, evaluate, evaluation_seed
from qfleet.deep.parameters import Parameters
from qfleet.environments.single import EnvironmentSource
from qfleet.errors import QfleetError
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.folder import RunFolder
from qfleet.settings import Settings

if TYPE_CHECKING:
    from torch import nn


@final
class Run:
    """A finished (or interrupted) run."""

    def __init__(
        self, problem: Problem, folder: RunFolder, parameters: Parameters, summary: dict[str, Any]
    ) -> None:
        self.problem, self.folder, self.summary = problem, folder, summary
        self._parameters = parameters

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def values(self) -> NDArray[np.float32]:
        """The Q-network's parameters, (num_parameters,) float32, as they did best in evaluation."""
        return self._parameters.vector

    def agent(self) -> Agent:
        """Acts greedily with the values."""
        return make_agent(self.problem, self._parameters)

    def evaluate(self, episodes: int = 100, seed: int | None = None) -> Evaluation:
        """Plays greedy episodes that training never saw; the same seed plays the same ones."""
        return evaluate_parameters(self.problem, self._parameters, episodes, seed)


def load(
    path: str | Path, *, environment: EnvironmentSource | None = None, network: "nn.Module | None" = None
) -> Agent:
    """The agent of a run's best checkpoint, or of its newest if none was evaluated yet."""
    folder = RunFolder.open(Path(path))
    problem = problem_of(folder, environment, network)
    return make_agent(problem, read_parameters(folder))


def load_run(
    path: str | Path, *, environment: EnvironmentSource | None = None, network: "nn.Module | None" = None
) -> Run:
    """A run from its folder, as `train` returned it."""
    folder = RunFolder.open(Path(path))
    problem = problem_of(folder, environment, network)
    try:
        summary = folder.read_summary()
    except QfleetError:
        summary = {}
    return Run(problem, folder, read_parameters(folder), summary)


def read_parameters(folder: RunFolder, report: Callable[[str], None] = lambda line: None) -> Parameters:
    """The best parameters of a run, else its newest; raises QfleetError if it has none."""
    store = CheckpointStore(folder.checkpoints, report=report)
    best = store.load_best()
    if best is not None:
        return Parameters(best[0], best[1]["parameters"], best[1]["buffers"])
    newest = store.load_newest()
    if newest is None:
        raise QfleetError(f"{folder.path} has no checkpoint yet: the run ended before its first")
    learner = newest[1]["learner"]
    return Parameters(newest[1]["updates"], learner["parameters"], learner.get("buffers", {}))


def make_agent(problem: Problem, parameters: Parameters) -> Agent:
    """An agent that acts with `parameters`."""
    description = problem.description()
    policy = make_learner(problem, description).policy()
    policy.load(parameters)
    return Agent(problem.source, problem.settings.engine, policy, parameters)


def evaluate_parameters(
    problem: Problem, parameters: Parameters, episodes: int, seed: int | None
) -> Evaluation:
    """Plays greedy episodes."""
    policy = make_learner(problem, problem.description()).policy()
    policy.load(parameters)
    run = problem.settings.run
    environment = problem.evaluation_environment(episodes)
    try:
        chosen = evaluation_seed(run.seed, FINAL, 0) if seed is None else seed
        result = evaluate(environment, policy, episodes, chosen, run.max_evaluation_steps)
    finally:
        environment.close()
    assert result is not None  # only an interruption, of which there is none here, gives None
    return result


def problem_of(
    folder: RunFolder, environment: EnvironmentSource | None, network: "nn.Module | None"
) -> Problem:
    """The problem a run was about; objects that its config cannot hold are given again."""
    settings = Settings.from_json(folder.read_config())
    given = {"environment": environment, "network": network}
    if missing := [name for name in settings.objects if given.get(name) is None]:
        raise QfleetError(
            f"{folder.path} was made from Python objects; in Python, qfleet.resume, load and load_run take them "
            f"again: qfleet.resume({str(folder.path)!r}, {', '.join(f'{name}=...' for name in missing)})"
        )
    return Problem(settings, settings.environment if environment is None else environment, network)
