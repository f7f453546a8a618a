"""From settings to the members of a run: where environment, algorithm, topology and backend meet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import gymnasium

from qfleet.backends.budget import num_cores, set_thread_budget
from qfleet.backends.mpi_launch import checked_job
from qfleet.deep.actor import Actor
from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.deep.learner import Learner
from qfleet.deep.networks import NetworkShape, decide
from qfleet.environments.making import EnvironmentDescription, describe, make
from qfleet.environments.single import EnvironmentSource
from qfleet.environments.vector import VectorEnvironment
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet
from qfleet.replay.replay import Replay
from qfleet.settings import Settings
from qfleet.sources import Source, gymnasium_source, source_name, world_of
from qfleet.tabular.support import refuse_unsupported
from qfleet.topologies.overlapped import Overlapped, OverlappedConfig
from qfleet.topologies.serial import Serial, SerialConfig
from qfleet.topologies.topology import Team, Topology
from qfleet.trainee import Trainee
from qfleet.worlds.sources import is_discrete

if TYPE_CHECKING:
    import torch
    from torch import nn

_MAX_EVALUATION_ENVIRONMENTS = 100


@dataclass(frozen=True)
class Problem:
    """What is learned on: the settings, and the objects that no settings can hold."""

    settings: Settings
    source: Source
    """The id, object or function that environments are made from."""
    network: "nn.Module | None" = None
    """The user's own network."""

    @property
    def gymnasium_source(self) -> EnvironmentSource:
        """What Gymnasium environments are made from; raises QfleetError where it is a world."""
        return gymnasium_source(self.source, self.settings.run.algorithm)

    def description(self) -> EnvironmentDescription:
        """What is known of the environment."""
        return describe(self.gymnasium_source, self.settings.environments)

    def shape(self, description: EnvironmentDescription) -> NetworkShape:
        """The network's shape."""
        return decide(self.settings.dqn, description.layout, description.frame_stack, description.num_actions)

    def evaluation_environment(self, num_episodes: int) -> VectorEnvironment:
        """Environments to play greedy episodes in."""
        one = isinstance(self.source, gymnasium.Env)
        num_envs = 1 if one else min(num_episodes, _MAX_EVALUATION_ENVIRONMENTS)
        config = replace(self.settings.environments, num_envs=num_envs)
        return make(self.gymnasium_source, config, training=False)


def with_workers(problem: Problem, workers: int) -> Problem:
    """The same with another number of workers; raises QfleetError where there cannot be so many."""
    settings = problem.settings
    return replace(problem, settings=replace(settings, run=replace(settings.run, workers=workers)))


def check(problem: Problem) -> None:
    """Raises QfleetError for what can be known to be impossible before anything is made."""
    settings = problem.settings
    if settings.run.backend == "ray":
        # Asked for before a run's folder is made, and before a large world is solved exactly.
        from qfleet.backends.ray_cluster import check_address

        check_address(settings.run.address)
    if settings.kind == "deep":
        make_learner(problem, problem.description())
        return
    if problem.network is not None:
        raise QfleetError(
            f"a network was given, but {settings.run.algorithm} learns a table; algorithm='dqn' works"
        )
    if world_of(problem.source, settings.states) is not None:
        refuse_unsupported(settings.rule, settings.run.topology, settings.run.backend, "compiled")
    else:
        _check_stepped_in_python(problem)
    if settings.run.backend == "mpi":
        checked_job(settings.run.workers)


def _check_stepped_in_python(problem: Problem) -> None:
    settings = problem.settings
    stepping = settings.states.known_stepping or "python"
    refuse_unsupported(settings.rule, settings.run.topology, settings.run.backend, stepping)
    environment = gymnasium_source(problem.source, settings.run.algorithm)
    if not settings.states.discretize and not is_discrete(environment, settings.states.environments()):
        raise QfleetError(
            f"{source_name(problem.source)} has no states that can be counted, which a table needs; "
            "--discretize 10 makes some, --algorithm dqn learns a network"
        )


def make_trainee(problem: Problem, report: Callable[[str], None]) -> Trainee:
    """What the run trains; `report` takes one line for whatever a person should know meanwhile."""
    # Each is imported only by the runs that need it: neither is quick.
    if problem.settings.kind == "table":
        from qfleet.table_trainee import TableTrainee

        return TableTrainee(problem, report)
    from qfleet.deep_trainee import DeepTrainee

    return DeepTrainee(problem)


def make_learner(problem: Problem, description: EnvironmentDescription) -> Learner:
    """The learner on the engine that fits its network and device."""
    settings, shape, config = problem.settings, problem.shape(description), problem.settings.dqn
    num_mask_actions = description.num_actions if description.masks_actions else 0
    device = settings.run.device
    if problem.network is None and shape.compilable and device != "cuda":
        return CompiledLearner(config, shape, num_mask_actions, settings.run.seed)
    # PyTorch is imported only by the runs that need it: that costs a second.
    from qfleet.deep.torch_learner import TorchLearner

    make_module = _module_maker(problem, shape)
    return TorchLearner(
        config,
        shape,
        num_mask_actions,
        settings.run.seed,
        make_module=make_module,
        device=_torch_device(device),
    )


def _module_maker(problem: Problem, shape: NetworkShape) -> "Callable[[], nn.Module]":
    from qfleet.deep.modules import QNetwork
    from qfleet.deep.torch_learner import users_module

    network = problem.network
    return (lambda: QNetwork(shape)) if network is None else (lambda: users_module(network, shape))


def _torch_device(device: str) -> "torch.device":
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise QfleetError("--device cuda: PyTorch finds no CUDA device here; --device auto or cpu works")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def make_topology(
    problem: Problem, description: EnvironmentDescription, learner: Learner, fleet: Fleet
) -> tuple[Topology, Replay]:
    """The topology with its members, and the replay they share."""
    settings, config, num_envs = (
        problem.settings,
        problem.settings.dqn,
        problem.settings.environments.num_envs,
    )
    assert isinstance(settings.topology, OverlappedConfig | SerialConfig)
    block_steps = settings.topology.block_steps
    num_mask_actions = description.num_actions if description.masks_actions else 0
    replay = Replay(
        config,
        description.layout,
        frame_stack=description.frame_stack,
        num_mask_actions=num_mask_actions,
        num_envs=num_envs,
        n_step=config.n_step,
        max_steps_per_block=-(-block_steps // num_envs),
    )

    def make_actor() -> Actor:
        return Actor(
            make(problem.gymnasium_source, settings.environments),
            learner.policy(),
            config,
            num_mask_actions=num_mask_actions,
            seed=settings.run.seed,
            block_steps=block_steps,
        )

    team = Team(config, learner, replay, make_actor, fleet, settings.run.steps)
    if isinstance(settings.topology, OverlappedConfig):
        set_thread_budget(num_own_threads=2)
        return Overlapped(team, settings.topology), replay
    set_thread_budget(num_own_threads=num_cores())
    return Serial(team), replay
