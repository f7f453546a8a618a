"""An actor as a service: the same blocks as an actor's own, wherever it lives, and never one too few."""

from functools import partial

import numpy as np
import pytest

from qfleet.backends.processes import ProcessFleet
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.actor import Actor
from qfleet.deep.actor_service import ActorService
from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Policy
from qfleet.deep.networks import decide
from qfleet.environments import EnvironmentConfig, make
from qfleet.environments.vector import ObservationLayout
from tests.environments.scripted import ScriptedEnv

CONFIG = DQNConfig(priority_exponent=0.6, n_step=3, hidden_sizes=(16,), exploration_steps=200)
CARTPOLE = ObservationLayout((4,), np.dtype(np.float32), is_image=False)
LEARNER = CompiledLearner(CONFIG, decide(CONFIG, CARTPOLE, 1, 2), 0, seed=3)


def make_actor(policy: Policy) -> Actor:
    """Two CartPoles; makes priorities."""
    vector = make("CartPole-v1", EnvironmentConfig(num_envs=2, engine="in-process"))
    return Actor(vector, policy, CONFIG, num_mask_actions=0, seed=4, block_steps=20, makes_priorities=True)


def same(one, two) -> bool:
    columns = [(one.priorities, two.priorities)]
    for part in ("frames", "transitions"):
        columns += [(getattr(one, part)[name], getattr(two, part)[name]) for name in getattr(one, part)]
    return one.first_frame == two.first_frame and all(a.tobytes() == b.tobytes() for a, b in columns)


class Reader:
    """Is given blocks, which their actor's caller never sees."""

    def is_same(self, one, two) -> bool:
        return same(one, two)


@pytest.mark.parametrize("make_fleet", [ThreadFleet, ProcessFleet])
def test_on_a_backend_it_gathers_what_it_gathers_here(make_fleet) -> None:
    parameters, here = LEARNER.publish(), make_actor(LEARNER.policy())
    here.start()
    fleet = make_fleet()
    try:
        actor = fleet.start("an actor", partial(ActorService, partial(make_actor, LEARNER.policy())))
        reader = fleet.start("a reader", Reader)
        actor.call("start").result(60)
        for _ in range(4):
            report = actor.call("gather", parameters, 1000)
            gathered = here.gather(parameters, 1000)
            assert reader.call("is_same", report, gathered.block).result(60)
            told = report.result(60)
            assert (told.num_steps, told.version) == (20, 0) and told.staleness(7) == 7
            assert (told.returns, told.lengths) == (gathered.returns, gathered.lengths)
            assert told.num_transitions == len(gathered.block.transitions["frame"])
        actor.call("close").result(60)
    finally:
        fleet.close()
        here.close()


def test_it_pauses_and_goes_on_in_another() -> None:
    parameters = LEARNER.publish()
    services = [ActorService(partial(make_actor, LEARNER.policy())) for _ in range(2)]
    services[0].start()
    services[0].gather(parameters, 1000)
    paused = services[0].pause()
    services[1].resume(paused.told)
    assert len(paused.given.transitions["frame"]) == 0
    one, two = (service.gather(parameters, 1000) for service in services)
    assert one.told == two.told and same(one.given, two.given)
    for service in services:
        service.close()


class Broken(ScriptedEnv):
    """Raises in its 30th step, and never again."""

    def __init__(self) -> None:
        super().__init__(index=0)
        self.num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 30:
            raise ValueError("once")
        return super().step(action)


def test_after_an_error_nothing_is_gathered_that_fits_nowhere() -> None:
    vector = make(Broken, EnvironmentConfig(num_envs=1, engine="in-process"))
    learner = CompiledLearner(CONFIG, decide(CONFIG, vector.layout, 1, vector.num_actions), 0, seed=3)
    policy, parameters = learner.policy(), learner.publish()
    service = ActorService(lambda: Actor(vector, policy, CONFIG, num_mask_actions=0, seed=4, block_steps=20))
    service.start()
    service.gather(parameters, 1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="once"):
            service.gather(parameters, 1000)
    service.begin_anew()
    assert service.gather(parameters, 1000).told.num_steps == 20
    service.close()
