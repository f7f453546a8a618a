"""From settings to the members of a network's run: what acts, learns and remembers, and where it lives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import gymnasium

from qfleet.assembly import Problem
from qfleet.backends.budget import num_cores, set_thread_budget
from qfleet.backends.mpi_launch import checked_job
from qfleet.deep.actor import Actor
from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.members import NetworkRun
from qfleet.deep.parameters import Parameters, flat_values
from qfleet.deep.task import NetworkTask
from qfleet.environments.making import EnvironmentDescription, make
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet
from qfleet.replay.replay import Replay
from qfleet.replay.shard import ReplayShard
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.data_parallel import DataParallel, DataParallelConfig
from qfleet.topologies.network_rounds import NetworkRounds
from qfleet.topologies.one_learner import Team
from qfleet.topologies.overlapped import Overlapped, OverlappedConfig
from qfleet.topologies.pooled import Pooled, PooledConfig
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.serial import Serial, SerialConfig
from qfleet.topologies.topology import Topology

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qfleet.deep.reinforce_learner import ReinforceLearner

_AVERAGED_BLOCK_STEPS = 64


@final
@dataclass(frozen=True)
class NetworkMembers:
    """Makes the members of a run, wherever they are to live: picklable if the user's own objects are."""

    problem: Problem
    description: EnvironmentDescription

    @property
    def num_mask_actions(self) -> int:
        """0 where no action is ever masked."""
        return self.description.num_actions if self.description.masks_actions else 0

    def make_actor(self, config: DQNConfig, seed: int, block_steps: int) -> Actor:
        """Environments of its own, and a policy that explores them."""
        return Actor(
            make(self.problem.gymnasium_source, self.problem.settings.environments),
            self.make_learner(config, seed).policy(),
            config,
            num_mask_actions=self.num_mask_actions,
            seed=seed,
            block_steps=block_steps,
        )

    def make_learner(self, config: DQNConfig, seed: int) -> Learner:
        """The learner on the engine that fits its network and device."""
        problem, shape = self.problem, self.problem.shape(self.description)
        device = problem.settings.run.device
        if problem.network is None and shape.compilable and device != "cuda":
            return CompiledLearner(config, shape, self.num_mask_actions, seed)
        # PyTorch is imported only by the runs that need it: that costs a second.
        from qfleet.deep.torch_learner import TorchLearner

        return TorchLearner(
            config,
            shape,
            self.num_mask_actions,
            seed,
            make_module=module_maker(problem, self.description),
            device=torch_device(device),
        )

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
    return (lambda: QNetwork(shape)) if network is None else (lambda: users_module(network, shape))


def torch_device(device: str) -> "torch.device":
    """What --device means here; raises QfleetError where there is no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise QfleetError("--device cuda: PyTorch finds no CUDA device here; --device auto or cpu works")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def check_networks(problem: Problem) -> None:
    """Raises QfleetError for what can be known to be impossible before anything is made."""
    run = problem.settings.run
    if isinstance(problem.source, gymnasium.Env) and (run.workers > 1 or run.backend != "threads"):
        raise QfleetError(
            f"an environment object is one environment, in this process; --workers {run.workers} --backend "
            f"{run.backend} need a function without arguments that makes one, or an id"
        )
    if run.backend == "mpi":
        checked_job(run.workers)
    make_learner(problem, problem.description())


def make_learner(problem: Problem, description: EnvironmentDescription) -> "Learner | ReinforceLearner":
    """A learner with the run's own settings and seed."""
    if problem.settings.kind == "policy":
        from qfleet.reinforce_assembly import EpisodeMembers

        members = EpisodeMembers(problem, description)
        return members.make_learner(problem.settings.reinforce, problem.settings.run.seed)
    return NetworkMembers(problem, description).make_learner(problem.settings.dqn, problem.settings.run.seed)


def make_topology(
    problem: Problem,
    description: EnvironmentDescription,
    learner: "Learner | ReinforceLearner",
    fleet: Fleet,
    restarts: Restarts,
) -> Topology:
    """The topology with its members; `learner` has the values that it begins with."""
    if not isinstance(learner, Learner):
        from qfleet.reinforce_assembly import make_reinforce_topology

        return make_reinforce_topology(problem, description, learner, fleet, restarts)
    config = problem.settings.topology
    if isinstance(config, OverlappedConfig | SerialConfig):
        return _one_learner(problem, NetworkMembers(problem, description), learner, fleet, config)
    if problem.settings.run.backend == "threads":
        set_thread_budget(num_own_threads=problem.settings.run.workers)
    initial = learner.publish()
    members = NetworkMembers(problem, description)
    if isinstance(config, PooledConfig):
        return Pooled(fleet, network_run(problem, members, initial), learner, config, restarts)
    block_steps = getattr(config, "block_steps", _AVERAGED_BLOCK_STEPS)
    run = problem.settings.run
    task = NetworkTask(
        members,
        problem.settings.dqn,
        run.seed,
        run.steps,
        run.workers,
        len(flat_values(initial)),
        block_steps,
    )
    if isinstance(config, AveragedConfig):
        return NetworkRounds(Averaged(fleet, task, config, restarts), initial, run.steps)
    assert isinstance(config, DataParallelConfig)
    return NetworkRounds(DataParallel(fleet, task, config, restarts), initial, run.steps)


def network_run(problem: Problem, members: NetworkMembers, initial: Parameters) -> NetworkRun:
    """What topologies whose members are services are told of the run."""
    run = problem.settings.run
    return NetworkRun(members, problem.settings.dqn, run.seed, run.steps, run.workers, initial)


def _one_learner(
    problem: Problem,
    members: NetworkMembers,
    learner: Learner,
    fleet: Fleet,
    config: OverlappedConfig | SerialConfig,
) -> Topology:
    run, dqn = problem.settings.run, problem.settings.dqn
    make_actor = partial(members.make_actor, dqn, run.seed, config.block_steps)
    replay = members.make_replay(dqn, config.block_steps)
    team = Team(dqn, learner, replay, make_actor, fleet, run.steps)
    if isinstance(config, OverlappedConfig):
        set_thread_budget(num_own_threads=2)
        return Overlapped(team, config)
    set_thread_budget(num_own_threads=num_cores())
    return Serial(team)
