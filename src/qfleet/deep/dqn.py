"""DQN's settings: what is learned from, how far, and how the actors explore."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from qfleet.deep.networks import NetworkConfig
from qfleet.deep.rules import UpdateRule
from qfleet.errors import QfleetError
from qfleet.replay.replay import ReplayConfig

Loss = Literal["huber", "squared"]


@dataclass(frozen=True)
class DQNConfig(NetworkConfig, ReplayConfig):
    """Deep Q-learning with a target network and replay (Mnih 2015), its extensions each a field."""

    learning_rate: float = 5e-4
    """Adam's step size."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    discount: float = 0.99
    """Discount factor gamma."""
    batch_size: int = 64
    """Transitions in a minibatch."""
    updates_per_step: float = 0.25
    """Updates for each environment step, held exactly over every block."""
    learning_starts_steps: int = 1000
    """Steps gathered before the first update."""
    target_update_every_updates: int = 500
    """Updates between two moves of the target network."""
    target_update_rate: float = 1.0
    """How far a move goes: 1 copies (hard), less than 1 is soft (tau)."""
    double: bool = True
    """Double DQN: the online network selects the action, the target network values it (van Hasselt 2016)."""
    n_step: int = 1
    """Rewards summed before bootstrapping."""
    loss: Loss = "huber"
    """Loss of the TD error; huber is linear beyond 1."""
    max_gradient_norm: float = 10.0
    """The gradient is scaled down to this norm; 0 leaves it as it is."""
    reward_limit: float = 0.0
    """Training rewards are clipped to plus and minus this; 0 leaves them. Returns are reported unclipped."""
    exploration_initial: float = 1.0
    """Probability of a random action at the start."""
    exploration_final: float = 0.05
    """Probability of a random action from the end of the decay on."""
    exploration_steps: int = 10_000
    """Steps over which exploration falls linearly; 0 explores at exploration_final throughout."""

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        ReplayConfig.__post_init__(self)
        if self.loss not in get_args(Loss):
            raise QfleetError(f"loss is {self.loss!r}; it must be one of {', '.join(get_args(Loss))}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise QfleetError(f"{name} is {value}; it must be {wanted}")
        if self.batch_size > self.replay_capacity:
            raise QfleetError(
                f"batch_size is {self.batch_size}, replay_capacity {self.replay_capacity}; "
                "a minibatch must fit into the replay"
            )

    def rule(self) -> UpdateRule:
        """The numbers that update kernels take."""
        return UpdateRule(
            double=self.double,
            huber_limit=1.0 if self.loss == "huber" else math.inf,
            learning_rate=self.learning_rate,
            adam_epsilon=self.adam_epsilon,
            max_gradient_norm=self.max_gradient_norm or math.inf,
            target_update_every_updates=self.target_update_every_updates,
            target_update_rate=self.target_update_rate,
            priority_exponent=self.priority_exponent,
            priority_floor=self.priority_floor,
        )

    def exploration_rate(self, num_steps: int) -> float:
        """Probability of a random action after `num_steps` steps."""
        if num_steps >= self.exploration_steps:
            return self.exploration_final
        progress = num_steps / self.exploration_steps
        return self.exploration_initial + progress * (self.exploration_final - self.exploration_initial)

    def importance_exponent_at(self, progress: float) -> float:
        """From the configured value to 1 over the run (Schaul et al. 2016, section 3.4); `progress` is 0 to 1."""
        return self.importance_exponent + (1 - self.importance_exponent) * min(1.0, progress)

    def updates_due(self, num_steps: int) -> int:
        """Updates that should have been made after `num_steps` steps."""
        return int(max(0, num_steps - self.learning_starts_steps) * self.updates_per_step)


_RANGES = (
    ("learning_rate", 0.0, 1.0),
    ("adam_epsilon", 0.0, 1.0),
    ("discount", 0.0, 1.0),
    ("batch_size", 1, math.inf),
    ("updates_per_step", 0.0, 1000.0),
    ("learning_starts_steps", 1, math.inf),
    ("target_update_every_updates", 1, math.inf),
    ("target_update_rate", 0.0, 1.0),
    ("n_step", 1, math.inf),
    ("max_gradient_norm", 0.0, math.inf),
    ("reward_limit", 0.0, math.inf),
    ("exploration_initial", 0.0, 1.0),
    ("exploration_final", 0.0, 1.0),
    ("exploration_steps", 0, math.inf),
)
