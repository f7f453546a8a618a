"""From settings to the members of a run: where environment, algorithm, topology and backend meet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import gymnasium

from qfleet.backends.budget import num_cores, set_thread_budget
from qfleet.backends.mpi_launch import checked_job
from qfleet.deep.networks import NetworkShape, decide
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.making import EnvironmentDescription, describe, make
from qfleet.environments.single import EnvironmentSource
from qfleet.environments.vector import VectorEnvironment
from qfleet.errors import QfleetError
from qfleet.fleet import Fleet
from qfleet.settings import RunConfig, Settings
from qfleet.sources import Source, gymnasium_source, network_source, source_name, world_of
from qfleet.tabular.support import refuse_unsupported
from qfleet.trainee import Trainee
from qfleet.worlds.gymnasium_env import WorldMaker
from qfleet.worlds.sources import is_discrete

if TYPE_CHECKING:
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

    @cached_property
    def environments(self) -> tuple[EnvironmentSource, EnvironmentConfig]:
        """What environments of networks are made from, and how."""
        return network_source(self.source, self.settings.environments)

    def description(self) -> EnvironmentDescription:
        """What is known of the environment."""
        found = describe(*self.environments)
        source = self.environments[0]
        if isinstance(source, WorldMaker):
            return replace(found, reward_threshold=source.world.reward_threshold)
        return found

    def shape(self, description: EnvironmentDescription) -> NetworkShape:
        """The network's shape."""
        return decide(
            self.settings.network, description.layout, description.frame_stack, description.num_actions
        )

    def evaluation_environment(self, num_episodes: int) -> VectorEnvironment:
        """Environments to play greedy episodes in."""
        one = isinstance(self.source, gymnasium.Env)
        num_envs = 1 if one else min(num_episodes, _MAX_EVALUATION_ENVIRONMENTS)
        source, config = self.environments
        return make(source, replace(config, num_envs=num_envs), training=False)


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
    if settings.kind != "table":
        from qfleet.deep_assembly import check_networks

        return check_networks(problem)
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


def leave_cores_to_workers(run: RunConfig, num_learners: int = 1) -> None:
    """Keeps the driver's libraries from starting threads that would fight with busy workers, wherever these live.

    The driver evaluates while they go on, and under pooled it learns.
    """
    busy = max(run.workers, num_learners) if run.backend == "threads" else num_cores()
    set_thread_budget(num_own_threads=busy)


def make_fleet(problem: Problem) -> Fleet:
    """Where workers live."""
    run = problem.settings.run
    if run.backend == "processes":
        from qfleet.backends.processes import ProcessFleet

        return ProcessFleet()
    if run.backend == "mpi":
        # mpi4py is imported only by the runs that need it: it is an extra.
        job = checked_job(run.workers)
        from qfleet.backends.mpi import MpiFleet

        return MpiFleet(job)
    if run.backend == "ray":
        from qfleet.backends.ray_fleet import RayFleet

        return RayFleet(run.address, run.interface, run.workers)
    from qfleet.backends.threads import ThreadFleet

    return ThreadFleet()


def make_trainee(problem: Problem, report: Callable[[str], None]) -> Trainee:
    """What the run trains; `report` takes one line for whatever a person should know meanwhile."""
    # Each is imported only by the runs that need it: neither is quick.
    if problem.settings.kind == "table":
        from qfleet.table_trainee import TableTrainee

        return TableTrainee(problem, report)
    from qfleet.deep_trainee import DeepTrainee

    return DeepTrainee(problem, report)
