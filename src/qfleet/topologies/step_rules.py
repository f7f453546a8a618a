"""How a parameter server moves parameters by what is pushed: by Adam along gradients, or as a block of updates says."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.optimizer import adam


@dataclass(frozen=True)
class StepRule(ABC):
    """How a part of the parameters is moved."""

    num_moments: ClassVar[int]
    """Arrays of the parameters' length that it keeps beside them."""

    first: int
    last: int
    """Of the parameters; the part ends before it."""

    @abstractmethod
    def step(
        self,
        parameters: NDArray[np.floating],
        pushed: NDArray[np.floating],
        moments: NDArray[np.float32],
        norm: float,
        number: int,
    ) -> None:
        """Makes update `number`, from 1, of the parameters (n,), in place; `moments` are (num_moments, n).

        `pushed` is what a worker has found for them, (..., n), and `norm` that of all shards' parts of it.
        """


@final
@dataclass(frozen=True)
class AdamRule(StepRule):
    """Gradients (n,): a step of Adam, with settings of its own."""

    num_moments = 2
    learning_rate: float
    adam_epsilon: float
    max_gradient_norm: float
    """The part's gradient is scaled down to this norm; infinity leaves it."""

    def step(
        self,
        parameters: NDArray[np.floating],
        pushed: NDArray[np.floating],
        moments: NDArray[np.float32],
        norm: float,
        number: int,
    ) -> None:
        """Against the gradient."""
        factor = self.max_gradient_norm / (norm + 1e-6) if norm > self.max_gradient_norm else 1.0
        gradient = pushed * np.float32(factor)
        rate, epsilon = self.learning_rate, self.adam_epsilon
        adam(parameters, gradient, moments[0], moments[1], number, rate, epsilon, np.inf)


@final
@dataclass(frozen=True)
class BlockRule(StepRule):
    """Blocks of a table's updates (2, n), [addends, factors]: values <- factors * values + addends.

    Every update of an entry is Q <- (1 - eta) Q + eta * target, so a block of them is affine in the value that they
    began from. Applied to whatever the server's value is by now, it gives a mean of that value and of targets: it
    never overshoots, however many workers have moved the entry meanwhile, which the sum of their changes does.
    """

    num_moments = 0

    def step(
        self,
        parameters: NDArray[np.floating],
        pushed: NDArray[np.floating],
        moments: NDArray[np.float32],
        norm: float,
        number: int,
    ) -> None:
        """The block's updates, made to the values as they are."""
        parameters *= pushed[1]
        parameters += pushed[0]
