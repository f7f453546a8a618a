"""The walk, the choice of actions and the rules once more, in plain Python, from the books: one step at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qfleet.tabular.learner import Task
from qfleet.worlds.mdp import MDP

_GOLDEN = 0x9E3779B97F4A7C15
_ALL = 2**64 - 1


def mixed(bits: int) -> int:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _ALL
    return bits ^ (bits >> 31)


@dataclass
class Walker:
    """One episode after the other."""

    random: int
    state: int = -1
    action: int = -1
    age: int = 0
    born: int = 0
    past: list[tuple[int, int, float]] = field(default_factory=list)
    """(state, action, reward) that a return of several steps is yet to come for."""
    traces: dict[tuple[int, int], float] = field(default_factory=dict)

    def draw(self) -> int:
        """64 random bits."""
        self.random = (self.random + _GOLDEN) & _ALL
        return mixed(self.random)


def unit(bits: int) -> float:
    """In [0, 1)."""
    return (bits >> 11) * 2.0**-53


class ReferenceWalk:
    """Learns in an MDP in the one form of small_worlds; `values` is (num_tables, num_states, num_actions)."""

    def __init__(self, mdp: MDP, task: Task, values: np.ndarray) -> None:
        self.mdp, self.task, self.config, self.values = mdp, task, task.config, values
        self.visits = np.zeros(values.shape, np.int64)
        seed = mixed((task.seed + _GOLDEN) & _ALL)
        self.walkers = [Walker(mixed((seed + i * _GOLDEN) & _ALL)) for i in range(task.num_walkers)]
        self._order = self._turns()
        for walker in self.walkers:
            walker.state = self._reset(unit(walker.draw()))
        for walker in self.walkers:
            walker.action = self._choose(walker, walker.state, walker.draw())[0]

    def _turns(self) -> Iterator[Walker]:
        """Sixteen walkers in turn for 64 steps each, then the next sixteen."""
        while True:
            for first in range(0, len(self.walkers), 16):
                for _ in range(64):
                    yield from self.walkers[first : first + 16]

    def advance(self, steps: int) -> None:
        """Makes steps."""
        for _ in range(steps):
            self._step(next(self._order))

    def _reset(self, random: float) -> int:
        states, cumulative = self.mdp.start.states, self.mdp.start.cumulative
        if states.size == 0:
            return int(random * self.mdp.num_states)
        if cumulative.size == 0:
            return int(states[int(random * states.size)])
        return int(states[np.searchsorted(cumulative, random, side="right")])

    def _arrive(self, state: int, action: int, random: float) -> tuple[int, float, bool]:
        first, last = self.mdp.outcomes.offsets[state * self.mdp.num_actions + action :][:2]
        part = self.mdp.outcomes.records[first:last]
        outcome = part[np.searchsorted(part["cumulative"], random, side="right")]
        stored = int(outcome["next_state"])
        return (~stored if stored < 0 else stored), float(outcome["reward"]), stored < 0

    def _actions(self, state: int) -> list[int]:
        assert self.mdp.allowed is not None
        return np.flatnonzero(self.mdp.allowed[state]).tolist() or [0]

    def _epsilon(self, age: int) -> float:
        span = self.config.exploration_span(self.task.total_steps) / self.task.num_walkers
        first, last = self.config.exploration_initial, self.config.exploration_final
        return first + (last - first) * min(age / span, 1.0)

    def _choose(self, walker: Walker, state: int, bits: int) -> tuple[int, Any]:
        """The action, and the largest value."""
        actions, q = self._actions(state), self.values.sum(axis=0)[state]
        explored = actions[((bits & 0xFFFFFFFF) * len(actions)) >> 32]
        best = max(q[action] for action in actions)
        greedy = explored if q[explored] == best else next(a for a in actions if q[a] == best)
        if self.config.exploration == "uniform":
            return explored, best
        if self.config.exploration == "boltzmann":
            return self._boltzmann(state, bits), best
        explores = (bits >> 32) * 2.0**-32 < self._epsilon(walker.age)
        return (explored if explores else greedy), best

    def _boltzmann(self, state: int, bits: int) -> int:
        weights = self._weights(state)
        left = unit(bits) * sum(weights.values())
        for action, weight in weights.items():
            left -= weight
            if left < 0:
                return action
        return list(weights)[-1]

    def _weights(self, state: int) -> dict[int, float]:
        actions, q = self._actions(state), self.values.mean(axis=0)[state]
        best = max(q[action] for action in actions)
        return {action: math.exp((q[action] - best) / self.config.temperature) for action in actions}

    def _expectation(self, walker: Walker, state: int) -> float:
        actions, q = self._actions(state), self.values[0, state].astype(float)
        mean = sum(q[action] for action in actions) / len(actions)
        if self.config.exploration == "uniform":
            return mean
        if self.config.exploration == "boltzmann":
            weights = self._weights(state)
            return sum(weight * q[action] for action, weight in weights.items()) / sum(weights.values())
        epsilon = self._epsilon(walker.age)
        return (1 - epsilon) * max(q[action] for action in actions) + epsilon * mean

    def _step(self, walker: Walker) -> None:
        state, action = walker.state, walker.action
        next_state, reward, terminated = self._arrive(state, action, unit(walker.draw()))
        bits = walker.draw()
        next_action, best = self._choose(walker, next_state, bits)
        limit = self.mdp.max_episode_steps
        ends = terminated or (limit is not None and walker.age + 1 - walker.born >= limit)
        table = bits & 1 if self.task.rule == "double-q-learning" else 0
        worth = 0.0 if terminated else self._worth(walker, next_state, next_action, float(best), table)
        greedy = not ends and self.values.sum(axis=0)[next_state, next_action] == best
        self._learn(walker, (state, action, reward), worth, greedy, table)
        walker.age += 1
        walker.state, walker.action = next_state, next_action
        if ends:
            walker.born = walker.age
            walker.state = self._reset(unit(walker.draw()))
            walker.action = self._choose(walker, walker.state, walker.draw())[0]

    def _worth(self, walker: Walker, state: int, action: int, best: float, table: int) -> float:
        if self.task.rule == "sarsa":
            return float(self.values[0, state, action])
        if self.task.rule == "expected-sarsa":
            return self._expectation(walker, state)
        if self.task.rule == "double-q-learning":
            q = self.values[table, state]
            largest = max(q[a] for a in self._actions(state))
            # Among equals the chosen action, as the walk has it, else the first.
            chosen = (
                action if q[action] == largest else next(a for a in self._actions(state) if q[a] == largest)
            )
            return float(self.values[1 - table, state, chosen])
        return best

    def _rate(self, table: int, state: int, action: int) -> float:
        self.visits[table, state, action] += 1
        number, config = int(self.visits[table, state, action]), self.config
        if config.learning_rate_schedule == "constant":
            return config.step_size
        if config.learning_rate_schedule == "visits":
            return config.step_size * number**-config.learning_rate_exponent
        return config.step_size / (1 + (1 - config.discount) * (number - 1))

    def _move(self, table: int, state: int, action: int, target: float) -> None:
        rate, old = self._rate(table, state, action), float(self.values[table, state, action])
        self.values[table, state, action] = old + rate * (target - old)

    def _learn(
        self, walker: Walker, pair: tuple[int, int, float], worth: float, greedy: bool, table: int
    ) -> None:
        state, action, reward = pair
        if self.task.rule == "tree-backup":
            self._learn_return(walker, pair, worth, greedy)
        elif self.task.rule == "watkins-q-lambda":
            self._learn_traces(walker, pair, worth, greedy)
        else:
            self._move(table, state, action, reward + self.config.discount * worth)

    def _learn_return(self, walker: Walker, pair: tuple[int, int, float], worth: float, greedy: bool) -> None:
        """Returns run through greedy actions, up to n steps; at any other action all that are open end."""
        walker.past.append(pair)
        if not greedy:
            self._close_returns(walker, worth)
        elif len(walker.past) == self.config.n_step:
            target = worth
            for _, _, reward in reversed(walker.past):
                target = reward + self.config.discount * target
            state, action, _ = walker.past.pop(0)
            self._move(0, state, action, target)

    def _close_returns(self, walker: Walker, worth: float) -> None:
        target = worth
        for state, action, reward in reversed(walker.past):
            target = reward + self.config.discount * target
            self._move(0, state, action, target)
        walker.past.clear()

    def _learn_traces(self, walker: Walker, pair: tuple[int, int, float], worth: float, greedy: bool) -> None:
        """Accumulating traces of every pair of the table (Watkins 1989)."""
        state, action, reward = pair
        decay = self.config.discount * self.config.trace_decay
        walker.traces = {key: decay * trace for key, trace in walker.traces.items()}
        walker.traces[state, action] = walker.traces.get((state, action), 0.0) + 1.0
        error = reward + self.config.discount * worth - float(self.values[0, state, action])
        rate = self._rate(0, state, action)
        for (row, column), trace in walker.traces.items():
            self.values[0, row, column] += rate * trace * error
        if not greedy:
            walker.traces.clear()
