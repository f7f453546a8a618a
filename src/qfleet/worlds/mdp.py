"""MDPs in arrays: stepped by the compiled kernels, and solved exactly."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from qfleet.errors import QfleetError
from qfleet.tabular import exact
from qfleet.worlds import explicit
from qfleet.worlds.arrays import outcomes_of_arrays
from qfleet.worlds.layout import Layout
from qfleet.worlds.outcomes import Outcomes
from qfleet.worlds.validation import checked_allowed, checked_start, checked_terminal
from qfleet.worlds.world import World

if TYPE_CHECKING:
    import gymnasium


class PolicyValues(NamedTuple):
    """What a policy is worth."""

    v: NDArray[np.float64]
    """(num_states,)"""
    q: NDArray[np.float64]
    """(num_states, num_actions): one action freely chosen, then the policy; -inf where an action is masked."""
    j: float
    """Mean of v over the start distribution."""


@final
@dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process; made by `from_arrays` or `from_gymnasium`.

    An episode ends on entering a terminal state, whose values are 0. Values of masked actions are -inf.
    """

    num_states: int
    num_actions: int
    outcomes: Outcomes
    """What every pair leads to."""
    start: explicit.Start
    """Where episodes begin."""
    allowed: NDArray[np.bool_] | None = None
    """(num_states, num_actions); None: every state has every action."""
    name: str = "MDP"
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; the exact values do not know of it."""
    reward_threshold: float | None = None
    """Mean greedy return at which a run counts as solved."""
    layout: Layout | None = None
    """Where the states lie, if they are the cells of a grid."""

    @classmethod
    def from_arrays(
        cls,
        transitions: Any,
        rewards: Any,
        *,
        terminal: Any = None,
        start: Any = None,
        allowed: Any = None,
        max_episode_steps: int | None = None,
        name: str = "MDP",
    ) -> "MDP":
        """An MDP from arrays of S states and A actions.

        transitions: probabilities (S, A, S), or sparse (S * A, S), row s * A + a; or integer next states (S, A).
        rewards: (S, A), (S, A, S), or sparse (S * A, S). terminal: (S,) booleans or a list of states; what
        leads out of them is not looked at. start: a state or (S,) probabilities; None: any state that is not
        terminal, all alike. allowed: (S, A) booleans, which actions states have.
        Raises QfleetError that names the state and action at fault.
        """
        shape, pack = outcomes_of_arrays(name, transitions, rewards)
        ends = checked_terminal(name, terminal, shape[0])
        masks = checked_allowed(name, allowed, shape, ends)
        outcomes = pack(ends, None if masks is None else ~masks)
        if max_episode_steps is not None and max_episode_steps < 1:
            raise QfleetError(
                f"{name}: max_episode_steps is {max_episode_steps}; it must be at least 1, or None"
            )
        begin = make_start(name, start, shape[0], ends)
        return cls(*shape, outcomes, begin, masks, name, max_episode_steps)

    @classmethod
    def from_gymnasium(cls, environment: "str | gymnasium.Env", **options: Any) -> "MDP":
        """The MDP of a Gymnasium environment that has a table `P`: FrozenLake-v1, CliffWalking-v1, Taxi-v4.

        `options` are the environment's own (is_slippery=False). Keeps the time limit, the reward threshold and,
        as Gymnasium's agents do, the masks of actions. Raises QfleetError for environments without a table.
        """
        from qfleet.worlds.gymnasium_tables import mdp_of_gymnasium

        return mdp_of_gymnasium(environment, options)

    def world(self) -> World:
        """The world that the learning kernels step."""
        step, approach, parameters = self._stepping()
        return World(
            step,
            explicit.reset,
            self.num_states,
            self.num_actions,
            parameters,
            self.name,
            self.max_episode_steps,
            None if self.allowed is None else explicit.allowed,
            partial(_itself, self),
            self.reward_threshold,
            successors=self.successors,
            approach=approach,
        )

    def solve(self, discount: float) -> NDArray[np.float64]:
        """(num_states, num_actions): the optimal action values, to machine precision, by value iteration."""
        return self.fixed_point(discount)

    def fixed_point(self, discount: float, policy: exact.PolicyRule = "greedy") -> NDArray[np.float64]:
        """(num_states, num_actions): what a rule converges to whose policy follows from its own values.

        greedy: the optimum. EpsilonGreedy(epsilon), Boltzmann(temperature), uniform: SARSA and expected SARSA.
        Raises QfleetError if the values do not converge (discount 1 where episodes need not end).
        """
        return exact.action_values(self._model, discount, exact.fixed_point(self._model, discount, policy))

    def evaluate(self, policy: Any, discount: float) -> PolicyValues:
        """V, Q and J of a policy: an action a state (num_states,), or probabilities (num_states, num_actions)."""
        values = exact.policy_values(self._model, discount, self._probabilities(policy))
        q = exact.action_values(self._model, discount, values)
        return PolicyValues(values, q, self._at_start(values))

    def bellman_residual(self, values: Any, discount: float) -> float:
        """Largest |r + discount * max Q(s', .) - Q(s, a)| over allowed actions of values (num_states, num_actions)."""
        array = np.ascontiguousarray(values, np.float64)
        if array.shape != (self.num_states, self.num_actions):
            raise QfleetError(
                f"{self.name}: values have shape {array.shape}; they must have {(self.num_states, self.num_actions)}"
            )
        return exact.bellman_residual(self._model, discount, array)

    def reachable(self) -> NDArray[np.bool_]:
        """(num_states,): the states that episodes can be in before they end, by allowed actions."""
        return exact.reachable(self._model, self._start_states())

    def successors(self, states: NDArray[np.integer]) -> NDArray[np.int64]:
        """The states that one step from any of `states` leads to, each once; steps that end the episode aside."""
        return exact.successors(self._model, states)

    def optimal_return(self, max_steps: int) -> float | None:
        """The largest expected undiscounted return within max_steps steps; None if too costly to find."""
        values = exact.horizon_values(self._model, max_steps)
        return None if values is None else self._at_start(values)

    def graph(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets, neighbours): which states transitions lead to or from, in compressed rows, for METIS."""
        return exact.graph(self._model)

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        masks = 0 if self.allowed is None else self.allowed.nbytes
        return self.outcomes.num_bytes + self.start.states.nbytes + self.start.cumulative.nbytes + masks

    def start_distribution(self) -> NDArray[np.float64]:
        """(num_states,) probabilities of first states."""
        states, cumulative = self._start_states(), self.start.cumulative
        result = np.zeros(self.num_states)
        result[states] = np.diff(cumulative, prepend=0.0) if cumulative.size else 1 / states.size
        return result

    @property
    def _model(self) -> exact.Model:
        records = self.outcomes.records
        several = self.outcomes.branching != 1
        return exact.Model(
            records["next_state"],
            records["reward"],
            records["cumulative"] if several else np.empty(0),
            self.outcomes.offsets,
            self.outcomes.branching,
            np.empty(0, np.bool_) if self.allowed is None else self.allowed.ravel(),
            self.num_states,
            self.num_actions,
        )

    def _stepping(self) -> tuple[Any, Any, Any]:
        """The functions for how the outcomes are stored, and what they are given."""
        records, branching = self.outcomes.records, self.outcomes.branching
        common = self.num_states, self.num_actions, self.start, self._model.allowed
        if branching == 1:
            parameters = explicit.DeterministicParameters(records, *common)
            return explicit.step_deterministic, explicit.approach_deterministic, parameters
        if branching:
            parameters = explicit.BranchingParameters(records, (0,) * branching, *common)
            return explicit.step_branching, explicit.approach_branching, parameters
        parameters = explicit.RaggedParameters(records, self.outcomes.offsets, *common)
        return explicit.step_ragged, explicit.approach_ragged, parameters

    def _start_states(self) -> NDArray[np.int32]:
        return self.start.states if self.start.states.size else np.arange(self.num_states, dtype=np.int32)

    def _at_start(self, values: NDArray[np.float64]) -> float:
        return float(self.start_distribution() @ values)

    def _probabilities(self, policy: Any) -> NDArray[np.float64]:
        """A policy as probabilities (num_states, num_actions), checked."""
        array, shape = np.asarray(policy), (self.num_states, self.num_actions)
        if array.shape == shape[:1] and np.issubdtype(array.dtype, np.integer):
            wrong = (array < 0) | (array >= self.num_actions)
            if wrong.any():
                self._refuse_policy(wrong, f"takes an action that is not 0 to {self.num_actions - 1}")
            chosen = np.zeros(shape)
            np.put_along_axis(chosen, array[:, None].astype(np.int64), 1.0, axis=1)
            array = chosen
        if array.shape != shape:
            raise QfleetError(
                f"{self.name}: a policy of {array.dtype} and shape {array.shape}; it must be {shape[:1]} integers "
                f"or {shape} probabilities"
            )
        self._refuse_policy(~(array >= 0).all(axis=1), "has a probability that is negative or NaN")
        self._refuse_policy(
            ~(np.abs(array.sum(axis=1) - 1) <= 1e-8), "has probabilities that do not sum to 1"
        )
        if self.allowed is not None:
            self._refuse_policy(
                (~self.allowed & (array > 0)).any(axis=1), "takes an action that is masked there"
            )
        return np.ascontiguousarray(array, np.float64)

    def _refuse_policy(self, wrong: Any, what: str) -> None:
        if wrong.any():
            raise QfleetError(f"{self.name}: in state {int(np.argmax(wrong))} the policy {what}")


def make_start(name: str, start: Any, num_states: int, terminal: NDArray[np.bool_] | None) -> explicit.Start:
    """Checks a start distribution (see MDP.from_arrays), and packs it."""
    if start is None:
        if terminal is not None and terminal.all():
            raise QfleetError(f"{name}: all states are terminal; episodes must begin in one that is not")
        states = np.empty(0, np.int32) if terminal is None else np.flatnonzero(~terminal).astype(np.int32)
        return explicit.Start(states, np.empty(0))
    probabilities = checked_start(name, start, num_states, terminal)
    states = np.flatnonzero(probabilities).astype(np.int32)
    cumulative = np.minimum(np.cumsum(probabilities[states]), 1.0)
    cumulative[-1] = 1.0
    return explicit.Start(states, cumulative)


def _itself(mdp: MDP) -> MDP:
    return mdp
