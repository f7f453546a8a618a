"""A parameter server's shard: a slice of the parameters, moved by gradients or blocks of updates that are pushed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.topologies.step_rules import StepRule


@dataclass(frozen=True)
class ServerReport:
    """How a shard is."""

    version: int
    """Updates that it has made."""
    num_dropped: int
    """Gradients that came too late and were not applied, so far."""
    staleness: int
    """Updates between what the latest gradient was computed with and its arrival."""


@dataclass(frozen=True)
class Slice:
    """A shard's parameters, as workers pull them."""

    report: ServerReport
    values: NDArray[np.floating]


@dataclass(frozen=True)
class PushedGradient:
    """A worker's gradient, or block of updates, for one shard."""

    worker: tuple[int, int]
    """Its rank, and how often it was replaced."""
    number: int
    """Of this gradient among the worker's, from 1."""
    version: int
    """Of the parameters it was computed with, in this shard."""
    values: NDArray[np.floating]
    """(num_parameters of the shard,), or as the step rule takes it."""
    norms: tuple[float, ...]
    """Of each rule's part of the gradient, over all shards."""


@final
class ParameterShard:
    """Applies every gradient at most once, and none that is too stale."""

    def __init__(
        self, initial: NDArray[np.floating], first: int, rules: Sequence[StepRule], max_staleness: int
    ) -> None:
        """`initial` are the parameters from number `first` on that are this shard's."""
        self._parameters, self._first = initial.copy(), first
        num_moments = max(rule.num_moments for rule in rules)
        self._moments = np.zeros((num_moments, len(initial)), np.float32)
        self._rules, self._max_staleness = rules, max_staleness
        self._version, self._num_dropped, self._staleness = 0, 0, 0
        self._applied: dict[tuple[int, int], int] = {}
        """The number of each worker's latest gradient."""

    def start(self) -> None:
        """It is there."""

    def answer(self) -> None:
        """It is there."""

    def pull(self) -> Slice:
        """The parameters as they are."""
        report = ServerReport(self._version, self._num_dropped, self._staleness)
        return Slice(report, self._parameters.copy())

    def push(self, gradient: PushedGradient | None) -> Slice:
        """Makes an update, unless the gradient was here before or is too stale; then gives the parameters."""
        if gradient is not None and gradient.number > self._applied.get(gradient.worker, 0):
            self._applied[gradient.worker] = gradient.number
            self._staleness = self._version - gradient.version
            if self._staleness > self._max_staleness:
                self._num_dropped += 1
            else:
                self._update(gradient)
        return self.pull()

    def _update(self, gradient: PushedGradient) -> None:
        self._version += 1
        for rule, norm in zip(self._rules, gradient.norms, strict=True):
            part = slice(max(0, rule.first - self._first), max(0, rule.last - self._first))
            pushed, moments = gradient.values[..., part], self._moments[:, part]
            rule.step(self._parameters[part], pushed, moments, norm, self._version)

    def set_values(self, values: NDArray[np.floating]) -> None:
        """Goes on from these."""
        self._parameters[:] = values

    def save_state(self) -> dict[str, Any]:
        """All of it; which gradients were applied is known by whoever pushes."""
        return {
            "parameters": self._parameters.copy(),
            "moments": self._moments.copy(),
            "version": self._version,
            "dropped": self._num_dropped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self._parameters[:], self._moments[:] = state["parameters"], state["moments"]
        self._version, self._num_dropped = state["version"], state["dropped"]

    def close(self) -> None:
        """There is nothing to free."""
