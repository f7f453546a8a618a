"""From settings to a topology of networks, with its members and where they live."""

import math
from collections.abc import Callable
from functools import partial

import gymnasium

from qfleet.assembly import Problem, leave_cores_to_workers
from qfleet.backends.budget import num_cores, set_thread_budget
from qfleet.backends.mpi_launch import checked_job
from qfleet.deep.gradient_sources import GradientSource, ReplayGradients, RolloutGradients
from qfleet.deep.learner import Policy
from qfleet.deep.members import NetworkRun
from qfleet.deep.parameters import flat_values
from qfleet.deep.task import NetworkTask
from qfleet.environments.making import EnvironmentDescription
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet
from qfleet.network_members import NetworkMembers, module_maker
from qfleet.topologies.ape_x import ApeX
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.async_n_step import AsyncNStep, AsyncNStepConfig
from qfleet.topologies.asynchronous import Asynchronous, AsynchronousConfig, agents_of_networks
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.data_parallel import DataParallel, DataParallelConfig
from qfleet.topologies.model_parallel import ModelParallel, ModelParallelConfig, ModelParallelTask
from qfleet.topologies.network_rounds import NetworkRounds
from qfleet.topologies.one_learner import Team
from qfleet.topologies.overlapped import Overlapped, OverlappedConfig
from qfleet.topologies.parameter_server import (
    ParameterServer,
    ParameterServerConfig,
    ServedRun,
    ServerConfig,
    none_due,
)
from qfleet.topologies.pooled import Pooled, PooledConfig
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.serial import Serial, SerialConfig
from qfleet.topologies.step_rules import AdamRule
from qfleet.topologies.topology import Topology

_AVERAGED_BLOCK_STEPS = 64
ServicesConfig = PooledConfig | AsynchronousConfig | AsyncNStepConfig | ParameterServerConfig | ApeXConfig


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
    if run.topology == "async-n-step" and run.backend != "ray" and run.device == "cuda":
        raise QfleetError("--device cuda: --topology async-n-step shares its network in the host's memory")
    if isinstance(problem.settings.topology, ApeXConfig):
        problem.settings.topology.check_shares(problem.settings.dqn.batch_size)
    description = problem.description()
    make_policy(problem, description)
    if run.topology == "model-parallel":
        _check_split(problem, description)


def _check_split(problem: Problem, description: EnvironmentDescription) -> None:
    """Raises QfleetError if no layer can be shared out."""
    from qfleet.deep.layer_pairs import find_cuts

    run = problem.settings.run
    if run.device == "cuda":
        raise QfleetError("--device cuda: --topology model-parallel splits networks over CPUs alone")
    find_cuts(module_maker(problem, description)(), run.workers)


def make_policy(problem: Problem, description: EnvironmentDescription) -> Policy:
    """A network to act with, of either kind; give it parameters first."""
    if problem.settings.kind == "policy":
        from qfleet.reinforce_assembly import EpisodeMembers

        members = EpisodeMembers(problem, description)
        return members.make_learner(problem.settings.reinforce, problem.settings.run.seed).policy()
    return NetworkMembers(problem, description).make_policy()


def make_topology(
    problem: Problem, description: EnvironmentDescription, fleet: Fleet, restarts: Restarts
) -> Topology:
    """The topology with its members."""
    if problem.settings.kind == "policy":
        from qfleet.reinforce_assembly import make_reinforce_topology

        return make_reinforce_topology(problem, description, fleet, restarts)
    config, members = problem.settings.topology, NetworkMembers(problem, description)
    if isinstance(config, OverlappedConfig | SerialConfig):
        return _one_learner(problem, members, fleet, config)
    learners = config.num_learners if isinstance(config, ApeXConfig) else 1
    leave_cores_to_workers(problem.settings.run, learners)
    if isinstance(config, ModelParallelConfig):
        return _model_parallel(problem, members, fleet, config)
    if isinstance(config, ServicesConfig):
        return _services(problem, members, fleet, config, restarts)
    assert isinstance(config, AveragedConfig | DataParallelConfig)
    return _rounds(problem, members, fleet, config, restarts)


def _one_learner(
    problem: Problem, members: NetworkMembers, fleet: Fleet, config: OverlappedConfig | SerialConfig
) -> Topology:
    run, dqn = problem.settings.run, problem.settings.dqn
    make_actor = partial(members.make_actor, dqn, run.seed, config.block_steps)
    learner, replay = (
        members.make_learner(dqn, run.seed),
        members.make_replay(dqn, config.block_steps),
    )
    team = Team(dqn, learner, replay, make_actor, fleet, run.steps)
    if isinstance(config, OverlappedConfig):
        set_thread_budget(num_own_threads=2)
        return Overlapped(team, config)
    set_thread_budget(num_own_threads=num_cores())
    return Serial(team)


def _rounds(
    problem: Problem,
    members: NetworkMembers,
    fleet: Fleet,
    config: AveragedConfig | DataParallelConfig,
    restarts: Restarts,
) -> Topology:
    """Workers that are all alike, in rounds."""
    run, dqn = problem.settings.run, problem.settings.dqn
    initial = members.make_learner(dqn, run.seed).publish()
    block_steps = config.block_steps if isinstance(config, DataParallelConfig) else _AVERAGED_BLOCK_STEPS
    num_values = len(flat_values(initial))
    task = NetworkTask(run.seed, run.steps, run.workers, num_values, members, dqn, block_steps)
    if isinstance(config, AveragedConfig):
        return NetworkRounds(Averaged(fleet, task, config, restarts), initial, run.steps)
    return NetworkRounds(DataParallel(fleet, task, config, restarts), initial, run.steps)


def _model_parallel(
    problem: Problem, members: NetworkMembers, fleet: Fleet, config: ModelParallelConfig
) -> Topology:
    """Workers that have a part of the network each."""
    # PyTorch is imported only by the runs that need it.
    from qfleet.deep.tensor_parallel import network_without_values

    run, dqn, shape = problem.settings.run, problem.settings.dqn, problem.shape(members.description)
    own = partial(network_without_values, shape)
    task = ModelParallelTask(
        dqn,
        shape,
        members.num_mask_actions,
        run.seed,
        run.steps,
        own if problem.network is None else module_maker(problem, members.description),
        partial(members.make_actor_with, dqn, run.seed, config.block_steps),
        partial(members.make_replay, dqn, config.block_steps),
    )
    return ModelParallel(fleet, task, config, run.workers)


def _services(
    problem: Problem,
    members: NetworkMembers,
    fleet: Fleet,
    config: ServicesConfig,
    restarts: Restarts,
) -> Topology:
    """Members of several roles, each a service."""
    run, dqn = problem.settings.run, problem.settings.dqn
    learner = members.make_learner(dqn, run.seed)
    told = NetworkRun(members, dqn, run.seed, run.steps, run.workers, learner.publish())
    if isinstance(config, AsynchronousConfig):
        agents = agents_of_networks(told, config)
        return Asynchronous(fleet, agents, restarts, config.stall_timeout_seconds)
    if isinstance(config, AsyncNStepConfig):
        return _async_n_step(told, fleet, config, problem.settings.environments.num_envs, restarts)
    if isinstance(config, ParameterServerConfig):
        make_source = partial(ReplayGradients, told, config.block_steps)
        served = _served(told, make_source, told.share.updates_due)
        return ParameterServer(fleet, served, config, restarts)
    if isinstance(config, ApeXConfig):
        return ApeX(fleet, told, config, problem.settings.environments.num_envs, restarts)
    return Pooled(fleet, told, learner, config, restarts)


def _async_n_step(
    run: NetworkRun, fleet: Fleet, config: AsyncNStepConfig, num_envs: int, restarts: Restarts
) -> Topology:
    """In shared memory; where there is none, the same workers push to a parameter server."""
    if fleet.shares_memory:
        return AsyncNStep(fleet, run, config, num_envs, restarts)
    make_source = partial(RolloutGradients, run, config.rollout_steps, num_envs)
    server = ServerConfig(stall_timeout_seconds=config.stall_timeout_seconds)
    return ParameterServer(fleet, _served(run, make_source), server, restarts)


def _served(
    run: NetworkRun,
    make_source: Callable[[int, int], GradientSource],
    updates_due: Callable[[int], int] = none_due,
) -> ServedRun:
    """A Q-network's parameters on a server."""
    config, num = run.config, len(run.initial.vector)
    limit = config.max_gradient_norm or math.inf
    rule = AdamRule(0, num, config.learning_rate, config.adam_epsilon, limit)
    return ServedRun(make_source, run.initial, (rule,), num, run.total_steps, run.num_workers, updates_due)
