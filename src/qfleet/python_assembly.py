"""What a table is learned of where environments are stepped in Python; imported only by the runs that do so."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from qfleet.assembly import Problem
from qfleet.environments.making import describe
from qfleet.evaluation import Evaluation
from qfleet.sources import gymnasium_source
from qfleet.states.evaluation import evaluate
from qfleet.states.task import make_python_task
from qfleet.table_assembly import Subject
from qfleet.tabular.evaluation import LookUp


def make_python_subject(problem: Problem, encoder: dict[str, Any] | None) -> Subject:
    """The task of its workers; `encoder` is that of the checkpoint the run goes on from."""
    settings, run = problem.settings, problem.settings.run
    source = gymnasium_source(problem.source, run.algorithm)
    task = make_python_task(
        source,
        settings.states,
        settings.rule,
        settings.tabular,
        run.seed,
        run.steps,
        run.workers,
        encoder,
    )

    def play(
        values: NDArray[Any] | LookUp, num_episodes: int, seed: int, interrupted: Callable[[], bool]
    ) -> Evaluation | None:
        assert not callable(values)  # only shards are looked up, and what is stepped in Python has none
        limit = run.max_evaluation_steps
        return evaluate(source, settings.states, task.encoder, values, num_episodes, seed, limit, interrupted)

    threshold = describe(source, settings.environments).reward_threshold
    return Subject(task, play, threshold, None, dict(task.encoder.state()))
