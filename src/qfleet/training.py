"""One run from its first step to its summary: learning, evaluation, checkpoints, metrics and the end."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from qfleet.assembly import Problem, make_trainee
from qfleet.errors import QfleetError
from qfleet.evaluation import CONFIRMING, PERIODIC, Evaluation, evaluation_seed
from qfleet.fleet_view import FleetView
from qfleet.interruption import Interruption
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.folder import RunFolder
from qfleet.runs.metrics import MetricsWriter
from qfleet.trainee import Progressed

_NUM_RECENT_EPISODES = 100
_METRIC_LINES = 200


@dataclass(frozen=True)
class Status:
    """Where a run is, after a block."""

    steps: int
    updates: int
    episodes: int
    seconds: float
    """Spent training, without evaluation and saving."""
    mean_return: float | None
    """Over the last 100 training episodes; None before the first has ended."""
    exploration_rate: float
    evaluation: Evaluation | None
    """The greedy evaluation made after this block, if one was due."""
    error: float | None = None
    """Largest distance of the table's values from the exact ones, as last measured; None where it is not known."""
    fleet: FleetView | None = None
    """How the roles of the topology do now; None where there is nothing to tell."""


@dataclass
class _Counters:
    """What a checkpoint holds beside arrays."""

    episodes: int = 0
    seconds: float = 0.0
    num_evaluations: int = 0
    best_mean: float | None = None
    best_step: int | None = None
    solved_return: float | None = None
    """The until_return that the run has confirmed to reach, and stopped at."""


@final
class Training:
    """Iterate over it to train: a Status after every block, until one of the settings' limits is reached.

    Use as a context manager: leaving it ends workers and environments and closes files. Signals are the
    caller's, through `interruption`. `trainee` is what learns.
    """

    def __init__(
        self,
        problem: Problem,
        folder: RunFolder,
        *,
        resume: bool = False,
        warm_start: dict[str, Any] | None = None,
        interruption: Interruption | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.problem, self.folder, self.stopped_by = problem, folder, ""
        self._interruption = Interruption() if interruption is None else interruption
        self._report = report
        self._run = problem.settings.run
        self._counters = _Counters()
        self._recent_returns: deque[float] = deque(maxlen=_NUM_RECENT_EPISODES)
        self._recent_lengths: deque[float] = deque(maxlen=_NUM_RECENT_EPISODES)
        self._asked_to_stop = ""
        self._error: float | None = None
        with ExitStack() as stack:
            stack.enter_context(folder.lock())
            self._store = CheckpointStore(folder.checkpoints, self._run.keep_checkpoints, report)
            stack.callback(self._store.close)
            self.trainee = make_trainee(problem, report)
            stack.callback(self.trainee.close)
            if warm_start is not None:
                self.trainee.load_values(warm_start)
            if resume:
                self._restore()
            self._metrics = MetricsWriter(folder.path, self.trainee.num_steps, report)
            stack.callback(self._metrics.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def first_step(self) -> int:
        """Environment steps made so far."""
        return self.trainee.num_steps

    @property
    def until_return(self) -> float:
        """Mean greedy return at which the run stops."""
        asked = self._run.until_return
        if asked is not None:
            return asked
        threshold = self.trainee.reward_threshold
        return np.inf if threshold is None else threshold

    def __iter__(self) -> Iterator[Status]:
        """Trains; at the end, the last checkpoint is written and `stopped_by` says why it ended."""
        self.prepare()
        if self.stopped_by:
            return
        self._interruption.begin_orderly()
        before, started = self.trainee.num_steps, time.perf_counter()
        for progressed in self.trainee.turns():
            self._counters.seconds += time.perf_counter() - started
            self._count(progressed)
            if progressed.is_partial and not (self._interruption or self._asked_to_stop):
                yield self._status(None)
                started = time.perf_counter()
                continue
            steps = self.trainee.num_steps
            self._log(before, steps, progressed)
            evaluation = self._evaluate_if_due(before, steps)
            self.stopped_by = self._reason_to_stop(progressed, evaluation, steps)
            if self.stopped_by or _crosses(before, steps, self._run.checkpoint_interval):
                self._save()
            yield self._status(evaluation)
            if self.stopped_by:
                return
            before, started = steps, time.perf_counter()

    def prepare(self) -> None:
        """Does what comes before the first step, unless it is done or there is nothing left to train."""
        self.stopped_by = self._finished_before()
        if not self.stopped_by:
            self.trainee.prepare()

    def _finished_before(self) -> str:
        """Why there is nothing left to do for a resumed run."""
        if self.trainee.num_steps >= self._run.steps:
            return "steps"
        solved = self._counters.solved_return
        return "until_return" if solved is not None and self.until_return <= solved else ""

    def _count(self, progressed: Progressed) -> None:
        self._counters.episodes += progressed.num_episodes
        self._error = progressed.error if progressed.error is not None else self._error
        if progressed.returns:
            # A mean over many episodes counts as often as they are.
            times = min(_NUM_RECENT_EPISODES, progressed.num_episodes // len(progressed.returns))
            self._recent_returns.extend(progressed.returns * times)
            self._recent_lengths.extend(progressed.lengths * times)

    def _status(self, evaluation: Evaluation | None) -> Status:
        return Status(
            self.trainee.num_steps,
            self.trainee.num_updates,
            self._counters.episodes,
            self._counters.seconds,
            float(np.mean(self._recent_returns)) if self._recent_returns else None,
            self.trainee.exploration_rate(),
            evaluation,
            self._error,
            self.trainee.view(),
        )

    def _reason_to_stop(self, progressed: Progressed, evaluation: Evaluation | None, steps: int) -> str:
        """`steps` are those of the turn's end: more may have come since, and the updates owed for them have not."""
        if self._interruption:
            self._interruption.noticed()
            return "interrupted"
        if evaluation is not None and evaluation.mean >= self.until_return and self._confirmed():
            self._counters.solved_return = self.until_return
            return "until_return"
        if _at_most(progressed.error, self._run.until_error):
            return "until_error"
        if _at_most(progressed.largest_change, self._run.until_change):
            return "until_change"
        if self._asked_to_stop:
            return self._asked_to_stop
        if 0 < self._run.episodes <= self._counters.episodes:
            return "episodes"
        return "steps" if steps >= self._run.steps else ""

    def stop(self, reason: str) -> None:
        """Ends the run before its next block; the checkpoint is written as at any end."""
        self._asked_to_stop = reason

    # Evaluation

    def _evaluate_if_due(self, before: int, steps: int) -> Evaluation | None:
        last = steps >= self._run.steps
        if self._interruption or not (last or _crosses(before, steps, self._run.evaluation_interval)):
            return None
        self._counters.num_evaluations += 1
        evaluation = self.evaluate(PERIODIC, self._run.evaluation_episodes)
        if evaluation is None:
            return None
        self._metrics.write(
            steps,
            {"eval/mean_reward": evaluation.mean, "eval/mean_ep_length": float(np.mean(evaluation.lengths))},
        )
        if self._counters.best_mean is None or evaluation.mean > self._counters.best_mean:
            self._keep_best(evaluation.mean)
        return evaluation

    def _confirmed(self) -> bool:
        """Whether more, other episodes say so too: a lucky twenty are not a solution."""
        evaluation = self.evaluate(CONFIRMING, self._run.final_episodes)
        if evaluation is None or evaluation.mean - evaluation.standard_error < self.until_return:
            return False
        self._keep_best(evaluation.mean)
        return True

    def evaluate(self, purpose: int, num_episodes: int) -> Evaluation | None:
        """Plays greedy episodes with the values as they are now; None if interrupted meanwhile."""
        return self.play(
            num_episodes, evaluation_seed(self._run.seed, purpose, self._counters.num_evaluations)
        )

    def play(self, num_episodes: int, seed: int) -> Evaluation | None:
        """The same with episodes of one's own choice."""
        return self.trainee.evaluate(num_episodes, seed, self._interruption.__bool__)

    def _keep_best(self, mean: float) -> None:
        self._counters.best_mean, self._counters.best_step = mean, self.trainee.num_steps
        if not self.trainee.keeps_best:
            return
        try:
            self._store.save_best(
                self.trainee.num_steps, {"mean_return": mean, **self.trainee.evaluated_state()}
            )
        except QfleetError as error:
            self._report(str(error))

    def load_best(self) -> dict[str, Any]:
        """The run's values, as `Trainee.values_state` gives them: the best ones, or the latest if none were kept."""
        best = self._store.load_best()
        return self.trainee.values_state() if best is None else best[1]

    # Metrics

    def _log(self, before: int, steps: int, progressed: Progressed) -> None:
        if not _crosses(before, steps, max(1, self._run.steps // _METRIC_LINES)):
            return
        seconds = max(self._counters.seconds, 1e-9)
        metrics = {
            "rollout/exploration_rate": self.trainee.exploration_rate(),
            "time/fps": steps / seconds,
            "time/updates_per_second": self.trainee.num_updates / seconds,
        }
        if self._recent_returns:
            metrics["rollout/ep_rew_mean"] = float(np.mean(self._recent_returns))
            metrics["rollout/ep_len_mean"] = float(np.mean(self._recent_lengths))
        self._metrics.write(steps, metrics | self.trainee.metrics(progressed))
        self.trainee.between_checkpoints(self._store)

    # Checkpoints

    def _save(self) -> None:
        state = self.trainee.save_state()
        state["run"] = {
            "counters": dict(vars(self._counters)),
            "recent_returns": list(self._recent_returns),
            "recent_lengths": list(self._recent_lengths),
        }
        try:
            self._store.save(self.trainee.num_steps, state)
        except QfleetError as error:
            if self.stopped_by:
                raise
            self._report(f"{error}; training goes on")

    def _restore(self) -> None:
        loaded = self._store.load_newest()
        if loaded is None:
            self._report(f"{self.folder.path} has no checkpoint yet; the run begins from its first step")
            return
        _, state = loaded
        run = state.pop("run")
        self._counters = _Counters(**run["counters"])
        self._recent_returns.extend(run["recent_returns"])
        self._recent_lengths.extend(run["recent_lengths"])
        self.trainee.load_state(state)

    # The end

    def summary(self, evaluation: Evaluation | None) -> dict[str, Any]:
        """What the run came to, as --json prints it."""
        settings, seconds = self.problem.settings, self._counters.seconds
        steps, updates = self.trainee.num_steps, self.trainee.num_updates
        return {
            "run": str(self.folder.path),
            "environment": settings.environment,
            "algorithm": self._run.algorithm,
            "topology": self._run.topology,
            "backend": self._run.backend,
            "workers": self._run.workers,
            "seed": self._run.seed,
            "steps": steps,
            "updates": updates,
            "episodes": self._counters.episodes,
            "seconds": round(seconds, 3),
            "steps_per_second": round(steps / seconds, 1) if seconds else None,
            "updates_per_second": round(updates / seconds, 1) if seconds else None,
            "stopped_by": self.stopped_by,
            "best_step": self._counters.best_step,
            "evaluation": None if evaluation is None else evaluation.summary(),
            **self.trainee.summary(),
        }


def _crosses(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return after // interval > before // interval


def _at_most(measured: float | None, limit: float | None) -> bool:
    """Whether a limit that was asked for is kept by what was measured."""
    return measured is not None and limit is not None and measured <= limit
