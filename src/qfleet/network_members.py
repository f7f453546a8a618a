"""What acts, learns and remembers in a run of a Q-network, made from its settings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from qfleet.assembly import Problem
from qfleet.deep.actor import Actor
from qfleet.deep.compiled.learner import CompiledLearner, CompiledPolicy
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner, Policy
from qfleet.deep.networks import compiled_plan
from qfleet.environments.making import EnvironmentDescription, make
from qfleet.errors import QfleetError
from qfleet.replay.replay import Replay
from qfleet.replay.shard import ReplayShard

if TYPE_CHECKING:
    import torch
    from torch import nn


@final
@dataclass(frozen=True)
class NetworkMembers:
    """Makes the members of a run, wherever they are to live: picklable if the user's own objects are."""

    problem: Problem
    description: EnvironmentDescription
    gpu: int = 0
    """Which of the machine's, counted round."""

    @property
    def may_be_on_gpu(self) -> bool:
        """Whether networks are on a GPU where there is one."""
        return not self._is_compiled and self.problem.settings.run.device != "cpu"

    @property
    def _is_compiled(self) -> bool:
        """Whether networks are run by our own kernels, and not by PyTorch."""
        problem = self.problem
        compilable = problem.network is None and problem.shape(self.description).compilable
        return compilable and problem.settings.run.device != "cuda"

    def on_gpu(self, number: int) -> "NetworkMembers":
        """The same, with networks on this one of the machine's GPUs, if they are on GPUs at all."""
        return replace(self, gpu=number)

    @property
    def num_mask_actions(self) -> int:
        """0 where no action is ever masked."""
        return self.description.num_actions if self.description.masks_actions else 0

    def make_actor(
        self, config: DQNConfig, seed: int, block_steps: int, *, makes_priorities: bool = False
    ) -> Actor:
        """Environments of its own, and a policy that explores them."""
        policy = self.make_policy()
        return self.make_actor_with(config, seed, block_steps, policy, makes_priorities=makes_priorities)

    def make_actor_with(
        self,
        config: DQNConfig,
        seed: int,
        block_steps: int,
        policy: Policy,
        *,
        makes_priorities: bool = False,
    ) -> Actor:
        """The same with a policy of somebody else's."""
        return Actor(
            make(*self.problem.environments),
            policy,
            config,
            num_mask_actions=self.num_mask_actions,
            seed=seed,
            block_steps=block_steps,
            makes_priorities=makes_priorities,
        )

    def make_learner(self, config: DQNConfig, seed: int) -> Learner:
        """The learner on the engine that fits its network and device."""
        problem, shape = self.problem, self.problem.shape(self.description)
        device = problem.settings.run.device
        if self._is_compiled:
            return CompiledLearner(config, shape, self.num_mask_actions, seed)
        # PyTorch is imported only by the runs that need it: that costs a second.
        from qfleet.deep.torch_learner import TorchLearner

        return TorchLearner(
            config,
            shape,
            self.num_mask_actions,
            seed,
            make_module=module_maker(problem, self.description),
            device=torch_device(device, self.gpu),
        )

    def make_policy(self) -> Policy:
        """A network to act with; give it parameters first."""
        shape, device = self.problem.shape(self.description), self.problem.settings.run.device
        if self._is_compiled:
            return CompiledPolicy(compiled_plan(shape)[0], shape.num_inputs)
        from qfleet.deep.torch_learner import TorchPolicy

        return TorchPolicy(module_maker(self.problem, self.description)(), torch_device(device, self.gpu))

    def make_replay(self, config: DQNConfig, block_steps: int) -> Replay:
        """Room for what one actor gathers."""
        num_envs = self.problem.settings.environments.num_envs
        return Replay(
            config,
            self.description.layout,
            frame_stack=self.description.frame_stack,
            num_mask_actions=self.num_mask_actions,
            num_envs=num_envs,
            n_step=config.n_step,
            max_steps_per_block=-(-block_steps // num_envs),
        )

    def make_shard(
        self,
        config: DQNConfig,
        num_writers: int,
        block_steps: int,
        seed: int,
        shard: int = 0,
        incarnation: int = 0,
    ) -> ReplayShard:
        """Room for what several actors gather, drawn from as one."""
        num_envs = self.problem.settings.environments.num_envs
        return ReplayShard(
            config,
            self.description.layout,
            num_writers=num_writers,
            frame_stack=self.description.frame_stack,
            num_mask_actions=self.num_mask_actions,
            num_envs=num_envs,
            n_step=config.n_step,
            max_steps_per_block=-(-block_steps // num_envs),
            seed=seed,
            shard=shard,
            incarnation=incarnation,
        )


def module_maker(problem: Problem, description: EnvironmentDescription) -> "Callable[[], nn.Module]":
    """Makes the user's own module, or the one that fits the observations."""
    from qfleet.deep.modules import QNetwork
    from qfleet.deep.torch_learner import users_module

    network, shape = problem.network, problem.shape(description)
    return partial(QNetwork, shape) if network is None else partial(users_module, network, shape)


def torch_device(device: str, gpu: int = 0) -> "torch.device":
    """What --device means here, on this one of the machine's GPUs, counted round; QfleetError where there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise QfleetError("--device cuda: PyTorch finds no CUDA device here; --device auto or cpu works")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", gpu % torch.cuda.device_count())
