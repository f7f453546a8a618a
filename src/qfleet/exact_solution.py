"""How far a table is from the exact solution, where the environment can be solved."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.settings import Settings
from qfleet.tabular.exact import Boltzmann, EpsilonGreedy
from qfleet.worlds.mdp import MDP
from qfleet.worlds.world import World

MOST_PAIRS = 5_000_000
"""State-action pairs up to which an environment is solved without being asked to."""


@final
@dataclass(frozen=True)
class ExactSolution:
    """The fixed point that a rule converges to."""

    mdp: MDP
    values: NDArray[np.float64]
    """(num_states, num_actions); -inf where an action is not allowed."""
    counted: NDArray[np.bool_]
    """(num_states, num_actions): allowed actions of states that can be reached and are not terminal."""

    def error(self, values: NDArray[Any], states: NDArray[np.int64] | None = None) -> float:
        """The largest |values - fixed point| over what is counted.

        `values` is (num_states, num_actions), or the rows (n, num_actions) of `states` (n,).
        """
        exact, counted = (
            (self.values, self.counted) if states is None else (self.values[states], self.counted[states])
        )
        return float(np.abs(values - exact, where=counted, out=np.zeros(exact.shape)).max(initial=0.0))


def solve_exactly(world: World, settings: Settings) -> ExactSolution | None:
    """The fixed point of the run's rule; None where it is not known, or not wanted (--exact)."""
    pairs = world.num_states * world.num_actions
    wanted = settings.run.exact
    if world.mdp is None or wanted == "no" or (wanted == "auto" and pairs > MOST_PAIRS):
        return None
    mdp = world.mdp()
    values = _fixed_point(mdp, settings)
    counted = np.isfinite(values) & mdp.reachable()[:, None]
    return ExactSolution(mdp, values, counted)


def _fixed_point(mdp: MDP, settings: Settings) -> NDArray[np.float64]:
    """What the rule converges to: Q*, or the value of its own policy at the final exploration (SARSA)."""
    config = settings.tabular
    if settings.rule not in ("sarsa", "expected-sarsa"):
        return mdp.fixed_point(config.discount, "greedy")
    if config.exploration == "epsilon-greedy":
        return mdp.fixed_point(config.discount, EpsilonGreedy(config.exploration_final))
    if config.exploration == "boltzmann":
        return mdp.fixed_point(config.discount, Boltzmann(config.temperature))
    return mdp.fixed_point(config.discount, "uniform")
