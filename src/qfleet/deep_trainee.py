"""Networks in the life of a run: learner, replay and topology as one Trainee."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, final

from qfleet.assembly import Problem, make_fleet
from qfleet.deep.evaluation import evaluate
from qfleet.deep.parameters import Parameters, parameters_of, state_of
from qfleet.deep_assembly import make_policy, make_topology
from qfleet.environments.vector import VectorEnvironment
from qfleet.evaluation import Evaluation
from qfleet.fleet_view import FleetView
from qfleet.replay.ring import Ring
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.streams import LoadedStream, Stream
from qfleet.topologies.restarts import Restarts
from qfleet.trainee import Progressed, Trainee


@final
class DeepTrainee(Trainee):
    """A network that learns under some topology; `topology` is there to look at."""

    def __init__(self, problem: Problem, report: Callable[[str], None]) -> None:
        self._problem, self._config = problem, problem.settings.network
        self._description = problem.description()
        self._evaluators: dict[int, VectorEnvironment] = {}
        self._evaluated: Parameters | None = None
        self._restarts = Restarts(problem.settings.run.allowed_restarts, report)
        with ExitStack() as stack:
            stack.callback(self._close_evaluators)
            self._policy = make_policy(problem, self._description)
            fleet = make_fleet(problem)
            stack.callback(fleet.close)
            self.topology = make_topology(problem, self._description, fleet, self._restarts)
            stack.callback(self.topology.close)
            self._stack = stack.pop_all()

    @property
    def num_steps(self) -> int:
        """Environment steps made so far."""
        return self.topology.num_steps

    @property
    def num_updates(self) -> int:
        """Optimizer steps made so far."""
        return self.topology.num_updates

    @property
    def reward_threshold(self) -> float | None:
        """The environment's own."""
        return self._description.reward_threshold

    def prepare(self) -> None:
        """Lets the topology start what is not started yet."""
        self.topology.prepare()

    def turns(self) -> Iterator[Progressed]:
        """Acts and learns for a while at each turn."""
        for turn in self.topology.turns():
            yield Progressed(turn.num_episodes, turn.returns, turn.lengths, is_partial=turn.is_partial)

    def exploration_rate(self) -> float:
        """Epsilon now."""
        own = self.topology.exploration_rate()
        return self._config.exploration_rate(self.num_steps) if own is None else own

    def evaluate(self, num_episodes: int, seed: int, interrupted: Callable[[], bool]) -> Evaluation | None:
        """Plays greedy episodes with the parameters as they are now."""
        if num_episodes not in self._evaluators:
            self._evaluators[num_episodes] = self._problem.evaluation_environment(num_episodes)
        environment, limit = self._evaluators[num_episodes], self._problem.settings.run.max_evaluation_steps
        self._evaluated = self.topology.parameters()
        self._policy.load(self._evaluated)
        return evaluate(environment, self._policy, num_episodes, seed, limit, interrupted)

    def metrics(self, progressed: Progressed) -> dict[str, float]:
        """What the topology measures."""
        return self.topology.measured() | self.topology.role_metrics()

    def view(self) -> FleetView | None:
        """The topology's."""
        return self.topology.view()

    def between_checkpoints(self, store: CheckpointStore) -> None:
        """Starts writing the replay's segments that are full."""
        store.write_full_segments({f"replay/{name}": stream for name, stream in self._streams().items()})

    def _streams(self) -> dict[str, Stream]:
        rings = self.topology.rings().items()
        return {name: Stream(ring.first_row, ring.num_rows, ring.read) for name, ring in rings}

    def save_state(self) -> dict[str, Any]:
        """The topology's state, its values for those who only want to act, and the replay's rows."""
        state = self.topology.save_state()  # first: it may add to the replay
        return {
            "topology": state,
            "values": state_of(self.topology.parameters()),
            "replay": self._streams(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        for name, ring in self.topology.rings().items():
            _refill(ring, state["replay"][name])
        self.topology.load_state(state["topology"])

    def values_state(self) -> dict[str, Any]:
        """The network's parameters and buffers."""
        return state_of(self.topology.parameters())

    def evaluated_state(self) -> dict[str, Any]:
        """Where services work on while others play, what they have learned by now may do worse."""
        return self.values_state() if self._evaluated is None else state_of(self._evaluated)

    @staticmethod
    def values_of(state: dict[str, Any]) -> dict[str, Any]:
        """The parameters in a whole state."""
        return state["values"]

    def load_values(self, state: dict[str, Any]) -> None:
        """Takes a network's parameters; raises QfleetError if they are of another network."""
        self.topology.set_parameters(parameters_of(state))

    def summary(self) -> dict[str, Any]:
        """How many restarts there were, if they were allowed."""
        return {"restarts": self._restarts.used} if self._restarts.allowed else {}

    def _close_evaluators(self) -> None:
        for environment in self._evaluators.values():
            environment.close()
        self._evaluators.clear()

    def close(self) -> None:
        """Ends the workers and closes all environments."""
        self._stack.close()


def _refill(ring: Ring, stream: LoadedStream) -> None:
    ring.num_rows = stream.first
    for _, rows in stream.read_segments():
        ring.append(rows)
