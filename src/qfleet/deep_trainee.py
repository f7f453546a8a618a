"""Networks in the life of a run: learner, replay and topology as one Trainee."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, final

from qfleet.assembly import Problem, make_learner, make_topology
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.actor import Gathered
from qfleet.deep.evaluation import evaluate
from qfleet.deep.parameters import Parameters, parameters_of, state_of
from qfleet.environments.vector import VectorEnvironment
from qfleet.evaluation import Evaluation
from qfleet.replay.ring import Ring
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.streams import LoadedStream, Stream
from qfleet.trainee import Progressed, Trainee


@final
class DeepTrainee(Trainee):
    """A network that learns from a replay; `learner`, `replay` and `topology` are there to look at."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._config = problem, problem.settings.dqn
        self._description = problem.description()
        self._evaluators: dict[int, VectorEnvironment] = {}
        self._latest: Gathered | None = None
        with ExitStack() as stack:
            stack.callback(self._close_evaluators)
            self.learner = make_learner(problem, self._description)
            self._policy = self.learner.policy()
            fleet = ThreadFleet()
            stack.callback(fleet.close)
            self.topology, self.replay = make_topology(problem, self._description, self.learner, fleet)
            stack.callback(self.topology.close)
            self._stack = stack.pop_all()

    @property
    def num_steps(self) -> int:
        """Environment steps made so far."""
        return self.topology.num_steps

    @property
    def num_updates(self) -> int:
        """Optimizer steps made so far."""
        return self.learner.num_updates

    @property
    def reward_threshold(self) -> float | None:
        """The environment's own."""
        return self._description.reward_threshold

    def prepare(self) -> None:
        """Kernels are compiled by the first block."""

    def turns(self) -> Iterator[Progressed]:
        """Acts and learns for a block at each turn."""
        for gathered in self.topology.blocks():
            self._latest = gathered
            returns, lengths = tuple(gathered.returns), tuple(float(length) for length in gathered.lengths)
            yield Progressed(len(returns), returns, lengths)

    def exploration_rate(self) -> float:
        """Epsilon now."""
        return self._config.exploration_rate(self.num_steps)

    def evaluate(self, num_episodes: int, seed: int, interrupted: Callable[[], bool]) -> Evaluation | None:
        """Plays greedy episodes with the learner's parameters."""
        if num_episodes not in self._evaluators:
            self._evaluators[num_episodes] = self._problem.evaluation_environment(num_episodes)
        environment, limit = self._evaluators[num_episodes], self._problem.settings.run.max_evaluation_steps
        self._policy.load(self.learner.publish())
        return evaluate(environment, self._policy, num_episodes, seed, limit, interrupted)

    def metrics(self, progressed: Progressed) -> dict[str, float]:
        """Replay, staleness and the learner's own."""
        values: dict[str, float] = {"replay/size": len(self.replay)}
        if self._latest is not None:
            values["fleet/staleness"] = self._latest.staleness(self.num_updates)
        return values | self.learner.take_statistics()

    def between_checkpoints(self, store: CheckpointStore) -> None:
        """Starts writing the replay's segments that are full."""
        store.write_full_segments(self._streams())

    def _streams(self) -> dict[str, Stream]:
        return {
            "replay/frames": _stream(self.replay.frames),
            "replay/transitions": _stream(self.replay.transitions),
        }

    def save_state(self) -> dict[str, Any]:
        """Actors, learner and replay."""
        return {
            "topology": self.topology.pause(),  # first: it may add to the replay
            "updates": self.num_updates,
            "learner": self.learner.save_state(),
            "replay": {name.removeprefix("replay/"): stream for name, stream in self._streams().items()}
            | {"priorities": self.replay.save_priorities()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.learner.num_updates = state["updates"]
        self.learner.load_state(state["learner"])
        for name, ring in (("frames", self.replay.frames), ("transitions", self.replay.transitions)):
            _refill(ring, state["replay"][name])
        self.replay.load_priorities(state["replay"]["priorities"])
        self.topology.resume(state["topology"])

    def values_state(self) -> dict[str, Any]:
        """The network's parameters and buffers."""
        return state_of(self.learner.publish())

    @staticmethod
    def values_of(state: dict[str, Any]) -> dict[str, Any]:
        """The parameters in a whole state."""
        learner = state["learner"]
        return state_of(Parameters(state["updates"], learner["parameters"], learner.get("buffers", {})))

    def load_values(self, state: dict[str, Any]) -> None:
        """Takes a network's parameters; raises QfleetError if they are of another network."""
        self.learner.warm_start(parameters_of(state))

    def summary(self) -> dict[str, Any]:
        """Nothing beyond what all runs say."""
        return {}

    def _close_evaluators(self) -> None:
        for environment in self._evaluators.values():
            environment.close()
        self._evaluators.clear()

    def close(self) -> None:
        """Ends the actor and closes all environments."""
        self._stack.close()


def _stream(ring: Ring) -> Stream:
    return Stream(ring.first_row, ring.num_rows, ring.read)


def _refill(ring: Ring, stream: LoadedStream) -> None:
    ring.num_rows = stream.first
    for _, rows in stream.read_segments():
        ring.append(rows)
