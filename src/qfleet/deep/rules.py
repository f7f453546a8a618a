"""The numbers an update of DQN depends on, as kernels take them."""

from typing import NamedTuple


class UpdateRule(NamedTuple):
    """Settings of one update; see DQNConfig for what each means."""

    double: bool
    huber_limit: float
    """Infinity: squared loss."""
    learning_rate: float
    adam_epsilon: float
    max_gradient_norm: float
    """Infinity: no clipping."""
    target_update_every_updates: int
    target_update_rate: float
    priority_exponent: float
    priority_floor: float
