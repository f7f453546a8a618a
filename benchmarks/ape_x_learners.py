"""What an update of Ape-X costs with one learner and with two that share its minibatch, small and large.

Learners alone, on samples drawn beforehand. CPU time is that of all of them together; wall time is only worth reading
where every learner has a core to itself. Run as `python benchmarks/ape_x_learners.py threads` or `processes`. Nothing
has to be reached: two learners are slower where a network is small.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import scipy.linalg.cython_blas  # noqa: F401 - so that its threads are known when they are limited

from qfleet.assembly import Problem
from qfleet.backends.budget import set_thread_budget
from qfleet.backends.processes import ProcessFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.members import NetworkRun
from qfleet.experiment import make_settings
from qfleet.fleet import Fleet, Future
from qfleet.network_members import NetworkMembers
from qfleet.replay.sample import Sample
from qfleet.topologies.ape_x_actor import ApeXActor
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.ape_x_learner import ApeXLearner
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import ReplayService

BATCHES, ROUNDS, TIMEOUT_SECONDS = 8, 3, 120.0
SIZES = [(64, 64, 100), (1024, 512, 5)]
"""Units of each of two layers, transitions in a minibatch, samples learned from in a round."""


def run_of(units: int, batch_size: int) -> NetworkRun:
    """CartPole, with a network of that size."""
    values: dict[str, Any] = {"topology": "ape-x", "hidden_sizes": (units, units), "batch_size": batch_size}
    settings = make_settings("CartPole-v1", None, {"algorithm": "dqn", **values})
    problem = Problem(settings, "CartPole-v1")
    members = NetworkMembers(problem, problem.description())
    initial = members.make_learner(settings.dqn, 0).publish()
    return NetworkRun(members, settings.dqn, 0, 10**6, 1, initial)


def drawn_sample(run: NetworkRun, config: ApeXConfig, board: ParameterBoard) -> Sample:
    """Minibatches of what an actor has gathered."""
    actor, shard = (
        ApeXActor(run, config, board, 0, 0),
        ReplayService(run, run.config, 1, config.block_steps, 0, 0),
    )
    actor.start()
    shard.append(0, actor.gather(10 * config.block_steps).given)
    actor.close()
    sample = shard.sample(BATCHES, run.config.batch_size)
    assert sample is not None
    return sample


def starter(fleet: Fleet, run: NetworkRun, num_learners: int) -> Callable[[], Future]:
    """What starts the updates of a sample, as the topology does."""
    config, board = ApeXConfig(num_learners=num_learners), ParameterBoard(fleet, run.initial)
    makers = [partial(ApeXLearner, run, config, board, number, 0) for number in range(num_learners)]
    learners = [fleet.start(f"learner {number}", make) for number, make in enumerate(makers)]
    sample = drawn_sample(run, config, board)

    def start() -> Future:
        if num_learners == 1:
            return learners[0].call("learn", 0.5, sample)
        gradients = [learner.call("begin", 0.5, sample) for learner in learners]
        for _ in range(BATCHES - 1):
            gradients = [learner.call("go_on", *gradients) for learner in learners]
        finished = [learner.call("finish", *gradients) for learner in learners]
        return finished[0]

    return start


def cpu_seconds() -> float:
    """Of this process and its children."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in [this, *this.children(recursive=True)])


def milliseconds(backend: str, run: NetworkRun, num_learners: int, num_samples: int) -> tuple[float, float]:
    """(wall, CPU) of an update."""
    fleet = ProcessFleet() if backend == "processes" else ThreadFleet()
    try:
        start = starter(fleet, run, num_learners)
        start().result(TIMEOUT_SECONDS)  # compiles
        set_thread_budget(num_own_threads=2)
        wall, cpu = time.perf_counter(), cpu_seconds()
        for future in [start() for _ in range(num_samples)]:
            future.result(TIMEOUT_SECONDS)
        factor = 1e3 / (BATCHES * num_samples)
        return factor * (time.perf_counter() - wall), factor * (cpu_seconds() - cpu)
    finally:
        fleet.close()


def main(backend: str) -> int:
    """One and two learners in turn; the least of several rounds."""
    for units, batch_size, num_samples in SIZES:
        run, found = (
            run_of(units, batch_size),
            {1: list[tuple[float, float]](), 2: list[tuple[float, float]]()},
        )
        for _ in range(ROUNDS):
            for num_learners, times in found.items():
                times.append(milliseconds(backend, run, num_learners, num_samples))
        for num_learners, times in found.items():
            wall, cpu = (min(column) for column in zip(*times, strict=True))
            print(
                f"{backend}, 2 x {units} units, batches of {batch_size}, learners: {num_learners}; "
                f"an update takes {wall:.2f} ms and {cpu:.2f} ms of CPU in all",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "threads"))
