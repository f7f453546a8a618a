"""REINFORCE's settings: how episodes become a gradient, and how far a step goes."""

import math
from dataclasses import dataclass

from qfleet.deep.networks import NetworkConfig
from qfleet.errors import QfleetError


@dataclass(frozen=True)
class ReinforceConfig(NetworkConfig):
    """REINFORCE (Williams 1992) with a softmax policy; baseline and entropy bonus are fields."""

    learning_rate: float = 3e-3
    """Adam's step size for the policy."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    discount: float = 0.99
    """Discount factor gamma of the returns."""
    discount_states: bool = False
    """Weighs step t by gamma^t: the gradient of the discounted return itself; usual practice leaves it out."""
    episodes_per_update: int = 8
    """Whole episodes that an update is made from; of each worker, where there are several."""
    baseline: bool = True
    """Subtracts a learned value of the state from the return; a network of its own, of the same layers."""
    baseline_learning_rate: float = 1e-2
    """Adam's step size for the baseline."""
    entropy_coefficient: float = 0.0
    """Weight of the policy's entropy in the objective; 0: none."""
    max_gradient_norm: float = 0.0
    """The policy's and the baseline's gradients are each scaled down to this norm; 0 leaves them."""
    max_episode_steps: int = 10_000
    """A longer episode counts as truncated there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dueling:
            raise QfleetError(
                "dueling is on; a softmax does not see the state's value, so --no-dueling it is"
            )
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise QfleetError(f"{name} is {value}; it must be {wanted}")

    def exploration_rate(self, num_steps: int) -> float:
        """None of its actions: what is random about a policy is the policy."""
        return 0.0


_RANGES = (
    ("learning_rate", 0.0, 1.0),
    ("adam_epsilon", 0.0, 1.0),
    ("discount", 0.0, 1.0),
    ("episodes_per_update", 1, math.inf),
    ("baseline_learning_rate", 0.0, 1.0),
    ("entropy_coefficient", 0.0, math.inf),
    ("max_gradient_norm", 0.0, math.inf),
    ("max_episode_steps", 1, math.inf),
)
