"""One run from its first step to its summary: learning, evaluation, checkpoints, metrics and the end."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from qfleet.assembly import Problem, make_learner, make_topology
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.actor import Gathered
from qfleet.deep.evaluation import CONFIRMING, PERIODIC, Evaluation, evaluate, evaluation_seed
from qfleet.deep.parameters import Parameters
from qfleet.environments.vector import VectorEnvironment
from qfleet.errors import QfleetError
from qfleet.interruption import Interruption
from qfleet.replay.ring import Ring
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.folder import RunFolder
from qfleet.runs.metrics import MetricsWriter
from qfleet.runs.streams import LoadedStream, Stream

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


@dataclass
class _Counters:
    """What a checkpoint holds beside arrays."""

    episodes: int = 0
    seconds: float = 0.0
    num_evaluations: int = 0
    best_mean: float | None = None
    best_step: int | None = None


@final
class Training:
    """Iterate over it to train: a Status after every block, until one of the settings' limits is reached.

    Use as a context manager: leaving it ends threads and environments and closes files. Signals are the
    caller's, through `interruption`.
    """

    def __init__(
        self,
        problem: Problem,
        folder: RunFolder,
        *,
        resume: bool = False,
        warm_start: Parameters | None = None,
        interruption: Interruption | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.problem, self.folder, self.stopped_by = problem, folder, ""
        self._interruption = Interruption() if interruption is None else interruption
        self._report = report
        self._run = problem.settings.run
        self._counters = _Counters()
        self._recent_returns: deque[float] = deque(maxlen=_NUM_RECENT_EPISODES)
        self._recent_lengths: deque[int] = deque(maxlen=_NUM_RECENT_EPISODES)
        self._asked_to_stop = ""
        self._evaluators: dict[int, VectorEnvironment] = {}
        with ExitStack() as stack:
            stack.enter_context(folder.lock())
            self._store = CheckpointStore(folder.checkpoints, self._run.keep_checkpoints, report)
            stack.callback(self._store.close)
            self._assemble(stack)
            if warm_start is not None:
                self.learner.warm_start(warm_start)
            if resume:
                self._restore()
            self._metrics = MetricsWriter(folder.path, self.topology.num_steps, report)
            stack.callback(self._metrics.close)
            self._stack = stack.pop_all()

    def _assemble(self, stack: ExitStack) -> None:
        self.description = self.problem.description()
        self.learner = make_learner(self.problem, self.description)
        self.policy = self.learner.policy()
        fleet = ThreadFleet()
        stack.callback(fleet.close)
        stack.callback(self._close_evaluators)
        self.topology, self.replay = make_topology(self.problem, self.description, self.learner, fleet)
        stack.callback(self.topology.close)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _close_evaluators(self) -> None:
        for environment in self._evaluators.values():
            environment.close()

    @property
    def first_step(self) -> int:
        """Environment steps made so far."""
        return self.topology.num_steps

    @property
    def until_return(self) -> float:
        """Mean greedy return at which the run stops."""
        asked = self._run.until_return
        if asked is not None:
            return asked
        threshold = self.description.reward_threshold
        return np.inf if threshold is None else threshold

    def __iter__(self) -> Iterator[Status]:
        """Trains; at the end, the last checkpoint is written and `stopped_by` says why it ended."""
        self._interruption.begin_orderly()
        if self.topology.num_steps >= self._run.steps:
            self.stopped_by = "steps"
            return
        before, started = self.topology.num_steps, time.perf_counter()
        for gathered in self.topology.blocks():
            self._counters.seconds += time.perf_counter() - started
            self._count(gathered)
            steps = self.topology.num_steps
            self._log(before, steps, gathered)
            evaluation = self._evaluate_if_due(before, steps)
            self.stopped_by = self._reason_to_stop(evaluation)
            if self.stopped_by or _crosses(before, steps, self._run.checkpoint_interval):
                self._save()
            yield self._status(evaluation)
            if self.stopped_by:
                return
            before, started = steps, time.perf_counter()

    def _count(self, gathered: Gathered) -> None:
        self._counters.episodes += len(gathered.returns)
        self._recent_returns.extend(gathered.returns)
        self._recent_lengths.extend(gathered.lengths)

    def _status(self, evaluation: Evaluation | None) -> Status:
        steps = self.topology.num_steps
        return Status(
            steps,
            self.learner.num_updates,
            self._counters.episodes,
            self._counters.seconds,
            float(np.mean(self._recent_returns)) if self._recent_returns else None,
            self.problem.settings.algorithm.exploration_rate(steps),
            evaluation,
        )

    def _reason_to_stop(self, evaluation: Evaluation | None) -> str:
        if self._interruption:
            self._interruption.noticed()
            return "interrupted"
        if evaluation is not None and evaluation.mean >= self.until_return and self._confirmed():
            return "until_return"
        if self._asked_to_stop:
            return self._asked_to_stop
        if 0 < self._run.episodes <= self._counters.episodes:
            return "episodes"
        return "steps" if self.topology.num_steps >= self._run.steps else ""

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
        """Plays greedy episodes with the learner's parameters; None if interrupted meanwhile."""
        self.policy.load(self.learner.publish())
        number = self._counters.num_evaluations
        return self.play(num_episodes, evaluation_seed(self._run.seed, purpose, number))

    def play(self, num_episodes: int, seed: int) -> Evaluation | None:
        """Plays greedy episodes with the parameters last loaded into `policy`."""
        if num_episodes not in self._evaluators:
            self._evaluators[num_episodes] = self.problem.evaluation_environment(num_episodes)
        environment, limit = self._evaluators[num_episodes], self._run.max_evaluation_steps
        return evaluate(environment, self.policy, num_episodes, seed, limit, self._interruption.__bool__)

    def _keep_best(self, mean: float) -> None:
        self._counters.best_mean, self._counters.best_step = mean, self.topology.num_steps
        published = self.learner.publish()
        state = {"mean_return": mean, "parameters": published.vector, "buffers": published.buffers}
        try:
            self._store.save_best(self.topology.num_steps, state)
        except QfleetError as error:
            self._report(str(error))

    def load_best(self) -> Parameters:
        """The parameters that did best, or the learner's own if no evaluation was made or kept."""
        best = self._store.load_best()
        if best is None:
            return self.learner.publish()
        step, state = best
        return Parameters(step, state["parameters"], state["buffers"])

    # Metrics

    def _log(self, before: int, steps: int, gathered: Gathered) -> None:
        if not _crosses(before, steps, max(1, self._run.steps // _METRIC_LINES)):
            return
        seconds = max(self._counters.seconds, 1e-9)
        metrics = {
            "rollout/exploration_rate": self.problem.settings.algorithm.exploration_rate(steps),
            "time/fps": steps / seconds,
            "time/updates_per_second": self.learner.num_updates / seconds,
            "replay/size": len(self.replay),
            "fleet/staleness": gathered.staleness(self.learner.num_updates),
        }
        if self._recent_returns:
            metrics["rollout/ep_rew_mean"] = float(np.mean(self._recent_returns))
            metrics["rollout/ep_len_mean"] = float(np.mean(self._recent_lengths))
        self._metrics.write(steps, metrics | self.learner.take_statistics())
        self._store.write_full_segments(self._streams())

    # Checkpoints

    def _streams(self) -> dict[str, Stream]:
        return {
            "replay/frames": _stream(self.replay.frames),
            "replay/transitions": _stream(self.replay.transitions),
        }

    def _save(self) -> None:
        state = {
            "topology": self.topology.pause(),  # first: it may add to the replay
            "counters": dict(vars(self._counters)),
            "recent_returns": list(self._recent_returns),
            "recent_lengths": list(self._recent_lengths),
            "updates": self.learner.num_updates,
            "learner": self.learner.save_state(),
            "replay": {name.removeprefix("replay/"): stream for name, stream in self._streams().items()}
            | {"priorities": self.replay.save_priorities()},
        }
        try:
            self._store.save(self.topology.num_steps, state)
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
        self._counters = _Counters(**state["counters"])
        self._recent_returns.extend(state["recent_returns"])
        self._recent_lengths.extend(state["recent_lengths"])
        self.learner.num_updates = state["updates"]
        self.learner.load_state(state["learner"])
        for name, ring in (("frames", self.replay.frames), ("transitions", self.replay.transitions)):
            _refill(ring, state["replay"][name])
        self.replay.load_priorities(state["replay"]["priorities"])
        self.topology.resume(state["topology"])

    # The end

    def summary(self, evaluation: Evaluation | None) -> dict[str, Any]:
        """What the run came to, as --json prints it."""
        settings, seconds = self.problem.settings, self._counters.seconds
        steps, updates = self.topology.num_steps, self.learner.num_updates
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
        }


def _crosses(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return after // interval > before // interval


def _stream(ring: Ring) -> Stream:
    return Stream(ring.first_row, ring.num_rows, ring.read)


def _refill(ring: Ring, stream: LoadedStream) -> None:
    ring.num_rows = stream.first
    for _, rows in stream.read_segments():
        ring.append(rows)
