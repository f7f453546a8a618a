"""Updates that several learners make together, whose gradients are added where the networks live: between GPUs."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.learner import Learner
from qfleet.deep.torch_group import TorchGroup
from qfleet.deep.torch_learner import ModuleLearner
from qfleet.fleet import Group
from qfleet.replay.replay import Batch


@final
class LearningTogether:
    """One learner among others; on GPUs, each has one of its own."""

    def __init__(self, learner: Learner, group: Group, timeout_seconds: float) -> None:
        """All learners' members of `group` call it together; `timeout_seconds` is the group's."""
        assert isinstance(learner, ModuleLearner), "it is one of PyTorch's"
        self._learner = learner
        self._torch_group = TorchGroup(group, timeout_seconds, learner.device)

    def learn(self, batch: Batch) -> NDArray[np.float32]:
        """Makes one update with the mean of all minibatches' gradients; this one's TD errors (batch,)."""
        return self._learner.learn_with_others(batch, self._torch_group.average)

    def close(self) -> None:
        """Leaves the others; safe to call twice."""
        self._torch_group.close()
