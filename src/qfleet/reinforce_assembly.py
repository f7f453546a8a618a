"""From settings to the members of a REINFORCE run."""

import math
from dataclasses import dataclass
from functools import partial
from typing import final

from qfleet.assembly import Problem, leave_cores_to_workers
from qfleet.deep.compiled.reinforce import compiled_reinforce_learner
from qfleet.deep.episode_gradients import EpisodeGradients
from qfleet.deep.episodes import EpisodeActor
from qfleet.deep.parameters import flat_values
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import ReinforceLearner
from qfleet.deep.reinforce_task import ReinforceTask
from qfleet.environments.making import EnvironmentDescription, make
from qfleet.fleet import Fleet
from qfleet.network_members import module_maker, torch_device
from qfleet.topologies.data_parallel_episodes import DataParallelEpisodes, EpisodesConfig
from qfleet.topologies.network_rounds import NetworkRounds
from qfleet.topologies.parameter_server import ParameterServer, ServedRun, ServerConfig
from qfleet.topologies.restarts import Restarts
from qfleet.topologies.step_rules import AdamRule
from qfleet.topologies.topology import Topology


@final
@dataclass(frozen=True)
class EpisodeMembers:
    """Makes the members of a run, wherever they are to live: picklable if the user's own objects are."""

    problem: Problem
    description: EnvironmentDescription

    def make_actor(self, config: ReinforceConfig, seed: int) -> EpisodeActor:
        """Environments of its own, and a policy to act with."""
        masked = self.description.masks_actions
        return EpisodeActor(
            make(*self.problem.environments),
            self.make_learner(config, seed).policy(),
            config,
            num_mask_actions=self.description.num_actions if masked else 0,
            seed=seed,
        )

    def make_learner(self, config: ReinforceConfig, seed: int) -> ReinforceLearner:
        """The learner on the engine that fits its network and device."""
        problem, shape = self.problem, self.problem.shape(self.description)
        device = problem.settings.run.device
        if problem.network is None and shape.compilable and device != "cuda":
            return compiled_reinforce_learner(config, shape, seed)
        # PyTorch is imported only by the runs that need it: that costs a second.
        from qfleet.deep.torch_reinforce import torch_reinforce_learner

        make_module = module_maker(problem, self.description)
        return torch_reinforce_learner(
            config, shape, seed, make_module=make_module, device=torch_device(device)
        )


def make_reinforce_topology(
    problem: Problem,
    description: EnvironmentDescription,
    fleet: Fleet,
    restarts: Restarts,
) -> Topology:
    """The topology with its members."""
    settings, run, members = problem.settings, problem.settings.run, EpisodeMembers(problem, description)
    learner = members.make_learner(settings.reinforce, run.seed)
    leave_cores_to_workers(run)
    if isinstance(settings.topology, ServerConfig):
        served = _served(problem, members, learner)
        return ParameterServer(fleet, served, settings.topology, restarts)
    assert isinstance(settings.topology, EpisodesConfig)
    initial = learner.publish()
    num_values = len(flat_values(initial))
    task = ReinforceTask(run.seed, run.steps, run.workers, num_values, members, settings.reinforce)
    topology = DataParallelEpisodes(fleet, task, settings.topology, restarts)
    return NetworkRounds(topology, initial, run.steps)


def _served(problem: Problem, members: EpisodeMembers, learner: ReinforceLearner) -> ServedRun:
    """Both networks on a server: the policy and the baseline have step sizes and norms of their own."""
    run, config = problem.settings.run, problem.settings.reinforce
    initial, num_policy = learner.parameters(), len(learner.publish().vector)
    limit, epsilon = config.max_gradient_norm or math.inf, config.adam_epsilon
    rules = (
        AdamRule(0, num_policy, config.learning_rate, epsilon, limit),
        AdamRule(num_policy, len(initial.vector), config.baseline_learning_rate, epsilon, limit),
    )
    make_source = partial(EpisodeGradients, members, config, run.seed)
    return ServedRun(make_source, initial, rules, num_policy, run.steps, run.workers)
