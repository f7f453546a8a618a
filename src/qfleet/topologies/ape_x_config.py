"""Settings of Ape-X: actors that only act, a prioritized replay in shards, learners that only learn (Horgan 2018)."""

from dataclasses import dataclass

from qfleet.errors import QfleetError
from qfleet.topologies.checks import refuse_below, refuse_no_patience

_MOST_LEARNERS = 16
"""Every learner is told the gradients of all others: with more of them that would be most of what is done."""


@dataclass(frozen=True)
class ApeXConfig:
    """How many shards and learners there are, how much goes at once, and how often parameters go back."""

    num_shards: int = 1
    """Services that the replay is shared out over."""
    num_learners: int = 1
    """Services that share the work of every minibatch; the updates are those of one."""
    learner_threads: int = 1
    """Threads that make each update of the only learner together, a part of the minibatch each."""
    block_steps: int = 256
    """Steps of an actor between two deliveries, rounded up to whole steps of its environments."""
    block_seconds: float = 0.25
    """An actor that takes longer for them delivers what it has by then."""
    batches_per_sample: int = 8
    """Minibatches that are drawn at once."""
    publish_every_updates: int = 16
    """Updates between two times that the parameters go on the board."""
    stall_timeout_seconds: float = 60.0
    """A member that is silent for longer is lost."""

    def __post_init__(self) -> None:
        refuse_below(
            self,
            1,
            "num_shards",
            "num_learners",
            "learner_threads",
            "block_steps",
            "batches_per_sample",
            "publish_every_updates",
        )
        if not self.block_seconds > 0:
            raise QfleetError(f"block_seconds is {self.block_seconds}; it must be above 0")
        refuse_no_patience(self)
        if self.num_learners > _MOST_LEARNERS:
            raise QfleetError(
                f"num_learners is {self.num_learners}; every learner is told the gradients of all others, so more than "
                f"{_MOST_LEARNERS} would do little else"
            )
        if self.num_learners > 1 and self.learner_threads > 1:
            raise QfleetError(
                f"num_learners is {self.num_learners}, learner_threads {self.learner_threads}: several learners "
                "have one thread each; learner_threads 1, or num_learners 1, works"
            )

    def check_shares(self, batch_size: int) -> None:
        """Raises QfleetError if a minibatch has no transition for some of the learners, or of their threads."""
        for name in ("num_learners", "learner_threads"):
            if getattr(self, name) > batch_size:
                raise QfleetError(
                    f"{name} is {getattr(self, name)}, batch_size {batch_size}: each needs a transition of every "
                    f"minibatch; at most {batch_size}, or a larger --batch-size, work"
                )
