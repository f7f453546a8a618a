"""The learner and the policy on compiled kernels: one call a block, no interpreter lock, no PyTorch."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.layers import forward, make_scratch
from qfleet.deep.compiled.learn import Vectors, batch_gradient, learn_batches, learn_block, optimize
from qfleet.deep.compiled.plan import Plan
from qfleet.deep.compiled.together import learn_part, make_meeting
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Gradient, Learner, Policy
from qfleet.deep.networks import NetworkShape, compiled_plan
from qfleet.deep.optimizer import move_towards
from qfleet.deep.parameters import Parameters, check_same_network, initial_parameters
from qfleet.errors import QfleetError
from qfleet.replay.replay import Batch, ReplayView

_TIMEOUT_SECONDS = 60.0


@final
class CompiledPolicy(Policy):
    """A plan run by the compiled kernels."""

    def __init__(self, plan: Plan, num_inputs: int) -> None:
        self._plan, self._num_inputs = plan, num_inputs
        self._vector = np.empty(0, np.float32)
        self._scratch = make_scratch(plan, 0, num_inputs)

    def load(self, parameters: Parameters) -> None:
        """Acts with these from now on."""
        self._vector = parameters.vector

    def values(self, observations: NDArray) -> NDArray[np.float32]:
        """Q (num, num_actions); valid until the next call."""
        if len(self._scratch.values) < len(observations):
            self._scratch = make_scratch(self._plan, len(observations), self._num_inputs)
        return forward(self._plan, self._vector, observations, self._scratch)


@final
class CompiledLearner(Learner):
    """A learner whose whole block of updates is one compiled call."""

    def __init__(self, config: DQNConfig, shape: NetworkShape, num_mask_actions: int, seed: int) -> None:
        super().__init__(config, shape, num_mask_actions, seed)
        self._plan, slots = compiled_plan(shape)
        self._num_inputs = shape.num_inputs
        self._helpers: ThreadPoolExecutor | None = None
        parameters = initial_parameters(slots, seed)
        self._vectors = Vectors(
            parameters, parameters.copy(), np.zeros_like(parameters), np.zeros_like(parameters)
        )

    def _learn(self, view: ReplayView, num_updates: int, importance_exponent: float) -> int:
        return learn_block(
            self._plan,
            self._rule,
            view,
            self._vectors,
            self._batch,
            self.seed,
            self.num_updates,
            num_updates,
            importance_exponent,
            self._sums,
        )

    def learn_batches(self, batches: Batch) -> NDArray[np.float32]:
        """See `Learner.learn_batches`; one compiled call, as each hand-over of the interpreter lock may take 5 ms."""
        if self._helpers is not None:
            return self._learn_together(batches, self._helpers)
        made, td_errors = learn_batches(
            self._plan, self._rule, self._vectors, batches, self.num_updates, self._sums
        )
        self._count(made, len(td_errors))
        return td_errors

    def use_threads(self, num_threads: int) -> None:
        """See `Learner.use_threads`."""
        if not 1 <= num_threads <= self.config.batch_size:
            raise QfleetError(
                f"{num_threads} threads cannot share a minibatch of {self.config.batch_size}; "
                f"1 to {self.config.batch_size} can"
            )
        self._meeting = make_meeting(num_threads, len(self._vectors.parameters))
        self._helpers = ThreadPoolExecutor(num_threads - 1) if num_threads > 1 else None

    def _learn_together(self, batches: Batch, helpers: ThreadPoolExecutor) -> NDArray[np.float32]:
        """This thread's part and, at the same time, those of the others."""
        self._meeting.arrived[0] = 0
        td_errors = np.empty(batches.actions.shape, np.float32)
        given = (
            self._plan,
            self._rule,
            self._vectors,
            batches,
            self.num_updates,
            self._sums,
            self._meeting,
        )
        ranks = range(1, len(self._meeting.losses))
        others = [helpers.submit(learn_part, *given, rank, td_errors) for rank in ranks]
        made = [learn_part(*given, 0, td_errors), *(other.result(_TIMEOUT_SECONDS) for other in others)]
        if -1 in made:
            raise QfleetError("a thread of the learner has not come to an update within half a minute")
        self._count(made[0], len(td_errors))
        return td_errors

    def _gradient(self, batch: Batch) -> Gradient:
        loss, vector, td_errors = batch_gradient(self._plan, self._rule, self._vectors, batch)
        return Gradient(vector, loss, td_errors)

    def _apply(self, gradient: NDArray[np.float32], number: int) -> float:
        return optimize(self._rule, self._vectors, gradient, number)

    def publish(self) -> Parameters:
        """A copy of the parameters."""
        return Parameters(self.num_updates, self._vectors.parameters.copy())

    def set_parameters(self, parameters: Parameters) -> None:
        """Goes on from these."""
        self._vectors.parameters[:] = parameters.vector

    def move_target(self) -> None:
        """Towards the online one."""
        move_towards(self._vectors.target, self._vectors.parameters, self._rule.target_update_rate)

    def share(self, vectors: NDArray[np.float32]) -> None:
        """From now on learns in memory that others learn in too."""
        self._vectors = Vectors(*vectors)

    def warm_start(self, parameters: Parameters) -> None:
        """Begins from another run's parameters."""
        check_same_network(len(self._vectors.parameters), parameters)
        self._vectors.parameters[:] = parameters.vector
        self._vectors.target[:] = parameters.vector

    def policy(self) -> CompiledPolicy:
        """A plan of the same shape to act with."""
        return CompiledPolicy(self._plan, self._num_inputs)

    def save_state(self) -> dict[str, Any]:
        """The four vectors."""
        return {name: vector.copy() for name, vector in self._vectors._asdict().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts the four vectors back."""
        for name, vector in self._vectors._asdict().items():
            vector[:] = state[name]
