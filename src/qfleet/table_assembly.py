"""From settings to the members of a table's run: what is learned, who learns it, and where they live."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qfleet.assembly import Problem
from qfleet.backends.budget import set_thread_budget
from qfleet.backends.mpi_launch import checked_job
from qfleet.errors import QfleetError
from qfleet.evaluation import Evaluation
from qfleet.fleet import Fleet
from qfleet.memory import available_memory_bytes, readable_bytes
from qfleet.sources import Source, as_world, source_name, world_of
from qfleet.tabular.cut import Cut, cut_blocks, cut_by_owners, owners_by_graph, read_owners
from qfleet.tabular.evaluation import LookUp, play_world
from qfleet.tabular.learner import Task
from qfleet.topologies.asynchronous import Asynchronous
from qfleet.topologies.averaged import Averaged, AveragedConfig
from qfleet.topologies.parameter_server import ParameterServer
from qfleet.topologies.partitioned import Partitioned, PartitionedConfig
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.serial import TableSerial, TableSerialConfig
from qfleet.topologies.shared import Shared, SharedConfig
from qfleet.topologies.table_agent import TableAsynchronousConfig, agents_of_table
from qfleet.topologies.table_learning import TableLearning
from qfleet.topologies.table_services import TableServices
from qfleet.topologies.table_source import TableServerConfig, served_table
from qfleet.topologies.table_team import LearningTask
from qfleet.worlds.world import World


@dataclass(frozen=True)
class Subject:
    """What a table is learned of."""

    task: LearningTask
    play: "Player"
    reward_threshold: float | None
    """Mean greedy return at which it counts as solved, if it says so."""
    world: World | None
    """None for what is stepped in Python."""
    encoder: dict[str, Any]
    """How observations become states, as checkpoints keep it; empty where they are states already."""


class Player(Protocol):
    """Plays greedy episodes by a table, or by looking rows up; None if interrupted meanwhile."""

    def __call__(
        self,
        values: NDArray | LookUp,
        num_episodes: int,
        seed: int,
        interrupted: Callable[[], bool],
    ) -> Evaluation | None:
        """Values are (num_states, num_actions), or a function that looks up (n, num_actions)."""
        ...


def make_subject(problem: Problem, encoder: dict[str, Any] | None = None) -> Subject:
    """What the problem is about; `encoder` is that of the checkpoint the run goes on from."""
    world = make_world(problem)
    if world is None:
        # Stepping in Python brings Gymnasium's wrappers and more, which worlds do without.
        from qfleet.python_assembly import make_python_subject

        return make_python_subject(problem, encoder)
    if _is_users_own(problem.source):
        world.check()
    task = make_task(problem, world)
    player = world_player(world, problem.settings.run.max_evaluation_steps)
    return Subject(task, player, world.reward_threshold, world, {})


def _is_users_own(source: Source) -> bool:
    """Whether its functions are the user's: what is wrong with them is to be said before workers trip over it."""
    return isinstance(source, World) or (isinstance(source, str) and ":" in source)


def make_world(problem: Problem) -> World | None:
    """The world that kernels step; None for what is stepped in Python."""
    states = problem.settings.states
    found = world_of(problem.source, states)
    if found is None:
        return None
    world = as_world(found)
    return replace(world, max_episode_steps=states.max_episode_steps) if states.max_episode_steps else world


def make_task(problem: Problem, world: World) -> Task:
    """What workers learn in a world."""
    settings = problem.settings
    return Task(
        world, settings.rule, settings.tabular, settings.run.seed, settings.run.steps, settings.run.workers
    )


def refuse_too_large(problem: Problem, task: LearningTask) -> None:
    """Raises QfleetError where the machine has not the memory, before any is taken."""
    settings = problem.settings
    entries, config = int(np.prod(task.shape)), settings.tabular
    each = task.dtype.itemsize + (4 if config.learning_rate_schedule != "constant" else 0)
    copies = _num_tables_here(problem)
    if isinstance(settings.topology, TableServerConfig) or (
        isinstance(settings.topology, AveragedConfig) and settings.topology.merge == "visits"
    ):
        each += 8
    needed, available = entries * each * copies, available_memory_bytes()
    if settings.run.until_change is not None:
        needed += entries * task.dtype.itemsize * copies
    if needed > available:
        tables = f"{copies} tables" if copies > 1 else "a table"
        raise QfleetError(
            f"{tables} of {task.shape[1]:,} states and {task.shape[2]} actions take {readable_bytes(needed)}, "
            f"and {readable_bytes(available)} are available; --table-type float32 halves it"
        )


def _num_tables_here(problem: Problem) -> int:
    """Tables on this machine at a time, those in messages included."""
    config, workers = problem.settings.topology, _num_workers_here(problem)
    if isinstance(config, TableServerConfig):
        return 1 + 4 * workers  # its own, what it has pulled, and a push of two
    if isinstance(config, TableAsynchronousConfig):
        return 2 * workers
    return workers if isinstance(config, AveragedConfig) else 1


def _num_workers_here(problem: Problem) -> int:
    """Workers on this machine."""
    run = problem.settings.run
    if run.backend == "mpi":
        return checked_job(run.workers).num_local_ranks
    return 1 if run.address else run.workers  # a cluster's nodes refuse what their own memory cannot hold


def make_topology(
    problem: Problem, task: LearningTask, fleet: Fleet, restarts: Restarts | None = None
) -> TableLearning:
    """The topology with its workers, wherever the fleet has them; they are replaced as `restarts` allows."""
    config = problem.settings.topology
    if problem.settings.run.backend == "threads":
        set_thread_budget(num_own_threads=problem.settings.run.workers)
    if isinstance(config, TableSerialConfig):
        return TableSerial(fleet, task, config)
    if isinstance(config, SharedConfig):
        counts_visits = problem.settings.tabular.learning_rate_schedule != "constant"
        return Shared(fleet, task, config, counts_visits, restarts)
    if isinstance(config, AveragedConfig):
        return Averaged(fleet, task, config, restarts)
    if isinstance(config, TableServerConfig):
        server = ParameterServer(fleet, served_table(task, config), config, restarts or Restarts(0))
        return TableServices(server, task.shape, task.total_steps)
    if isinstance(config, TableAsynchronousConfig):
        assert isinstance(task, Task)
        agents, limit = agents_of_table(task, config), config.stall_timeout_seconds
        return TableServices(
            Asynchronous(fleet, agents, restarts or Restarts(0), limit), task.shape, task.total_steps
        )
    assert isinstance(config, PartitionedConfig) and isinstance(task, Task)
    return Partitioned(fleet, task, make_cut(problem, task.world, config), config, restarts)


def make_cut(problem: Problem, world: World, config: PartitionedConfig) -> Cut:
    """Which worker owns which state at the beginning."""
    workers = problem.settings.run.workers
    if config.cut == "owners":
        return cut_by_owners(read_owners(config.owners, world.num_states, workers), workers)
    if config.cut == "graph":
        if world.mdp is None:
            raise QfleetError(
                f"--cut graph needs to know all transitions, and {source_name(problem.source)} is made of "
                "functions; --cut blocks works, and --cut owners takes a cut of your own"
            )
        return cut_by_owners(owners_by_graph(*world.mdp().graph(), workers), workers)
    return cut_blocks(world.num_states, workers)


def world_player(world: World, max_steps: int) -> Player:
    """Plays in the kernel."""

    def play(
        values: NDArray | LookUp, num_episodes: int, seed: int, interrupted: Callable[[], bool]
    ) -> Evaluation | None:
        played = play_world(world, values, num_episodes, seed, max_steps, interrupted)
        return None if played is None else Evaluation(*played)

    return play
