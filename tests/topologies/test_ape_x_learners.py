"""Ape-X's learners: several that share every minibatch make the updates of one, and stay equal to one another."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qfleet.assembly import Problem
from qfleet.backends.threads import ThreadFleet
from qfleet.deep.learner import Gradient
from qfleet.deep.members import NetworkRun
from qfleet.errors import NonFiniteError
from qfleet.experiment import make_settings
from qfleet.network_members import NetworkMembers
from qfleet.replay.sample import Sample
from qfleet.topologies.ape_x_actor import ApeXActor
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.ape_x_learner import ApeXLearner
from qfleet.topologies.parameter_board import ParameterBoard
from qfleet.topologies.replay_service import Learned, ReplayService

BATCHES, BLOCK, PART, SEED = 8, 64, 8, 3
SETTINGS: dict[str, Any] = {
    "algorithm": "dqn",
    "topology": "ape-x",
    "num_envs": 4,
    "batch_size": 16,
    "hidden_sizes": (16,),
    "n_step": 2,
    "priority_exponent": 0.6,
    "replay_capacity": 2000,
    "target_update_every_updates": 10,
    "learning_rate": 1e-3,
}


@pytest.fixture
def fleet() -> Iterator[ThreadFleet]:
    made = ThreadFleet()
    yield made
    made.close()


def run_of(**changes: Any) -> NetworkRun:
    settings = make_settings("CartPole-v1", None, SETTINGS | changes)
    problem = Problem(settings, "CartPole-v1")
    members = NetworkMembers(problem, problem.description())
    initial = members.make_learner(settings.dqn, SEED).publish()
    return NetworkRun(members, settings.dqn, SEED, 10_000, 2, initial)


class Team:
    """Two actors, a shard of each, and so many learners, called as the driver calls them."""

    def __init__(self, fleet: ThreadFleet, num_learners: int, **changes: Any) -> None:
        run, config = run_of(**changes), ApeXConfig(num_learners=num_learners, publish_every_updates=12)
        self.board = ParameterBoard(fleet, run.initial)
        self.shards = [ReplayService(run, run.config, 1, BLOCK, number, 0) for number in range(2)]
        self.learners = [ApeXLearner(run, config, self.board, k, 0) for k in range(num_learners)]
        self.learned: list[Learned] = []
        for number, shard in enumerate(self.shards):
            actor = ApeXActor(run, config, self.board, number, 0)
            actor.start()
            shard.append(0, actor.gather(400).given)
            actor.close()

    def samples(self) -> list[Sample | None]:
        return [shard.sample(BATCHES, PART) for shard in self.shards]

    def learn(self) -> None:
        """The updates of one sample."""
        samples = self.samples()
        if len(self.learners) == 1:
            learned = [self.learners[0].learn(0.5, *samples)]
        else:
            gradients = [learner.begin(0.5, *samples) for learner in self.learners]
            for _ in range(BATCHES - 1):
                gradients = [learner.go_on(*gradients) for learner in self.learners]
            learned = [learner.finish(*gradients) for learner in self.learners]
        for shard in self.shards:
            shard.prioritize(learned[0])
        self.learned += learned

    def states(self) -> list[dict[str, Any]]:
        return [learner.save_state() for learner in self.learners]


def bits(state: dict[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in state["learner"].items()}


@pytest.mark.parametrize("num_learners", [2, 3, 5])
def test_learners_stay_equal_bit_for_bit(num_learners: int, fleet: ThreadFleet) -> None:
    """Networks, targets and both moments; 16 transitions are not shared evenly by 3 and 5."""
    team = Team(fleet, num_learners)
    for _ in range(3):
        team.learn()
    first, *others = team.states()
    assert first["updates"] == 3 * BATCHES and set(bits(first)) >= {"parameters", "target", "first_moment"}
    for other in others:
        assert other["updates"] == first["updates"] and bits(other) == bits(first)


@pytest.mark.parametrize("num_learners", [2, 3])
def test_several_make_the_updates_of_one(num_learners: int, fleet: ThreadFleet) -> None:
    one, several = Team(fleet, 1), Team(fleet, num_learners)
    initial = one.states()[0]["learner"]["parameters"].copy()
    for _ in range(2):
        one.learn()
        several.learn()
    wanted, found = one.states()[0], several.states()[0]
    assert found["updates"] == wanted["updates"] == 2 * BATCHES
    moved = np.abs(wanted["learner"]["parameters"] - initial).max()
    assert moved > 5e-3
    for name, value in wanted["learner"].items():
        scale = moved if name in ("parameters", "target") else np.abs(value).max()
        np.testing.assert_allclose(found["learner"][name], value, atol=5e-3 * scale, err_msg=name)


def test_priorities_go_back_to_where_they_belong(fleet: ThreadFleet) -> None:
    """All parts of both shards have the priorities that one learner would have given them."""
    one, several = Team(fleet, 1), Team(fleet, 3)
    before = priorities(one)
    one.learn()
    several.learn()
    wanted, found = priorities(one), priorities(several)
    for shard in range(2):
        assert np.count_nonzero(wanted[shard] != before[shard]) > 30
        np.testing.assert_allclose(found[shard], wanted[shard], rtol=1e-3, atol=1e-5)
    for learned in several.learned:  # whichever learner is asked
        assert learned.num_updates == BATCHES and [drawn.shard for drawn in learned.drawn] == [0, 1]
        for errors, expected in zip(learned.td_errors, one.learned[0].td_errors, strict=True):
            np.testing.assert_allclose(errors, expected, rtol=1e-3, atol=1e-4)


def priorities(team: Team) -> list[np.ndarray]:
    """Of all transitions of each shard."""
    return [shard.save_state()["shard"]["pools"]["0"]["priorities"] for shard in team.shards]


def test_the_first_learner_alone_publishes(fleet: ThreadFleet) -> None:
    team = Team(fleet, 2)
    team.learn()
    assert team.board.newest(0) is None  # 8 of 12 updates
    team.learn()
    newest = team.board.newest(0)
    assert newest is not None and newest.version == 12
    team.learners[1].load_state(team.states()[0])
    assert (found := team.board.newest(0)) is not None and found.version == 12
    team.learners[0].load_state(team.states()[1])
    assert (found := team.board.newest(0)) is not None and found.version == 16


def test_their_statistics_are_of_whole_minibatches(fleet: ThreadFleet) -> None:
    one, several = Team(fleet, 1), Team(fleet, 3)
    one.learn()
    several.learn()
    wanted = one.learners[0].statistics()
    for learner in several.learners:
        assert learner.statistics() == pytest.approx(wanted, rel=1e-3)


def test_without_priorities_none_are_sent(fleet: ThreadFleet) -> None:
    team = Team(fleet, 2, priority_exponent=0.0)
    team.learn()
    assert [(learned.num_updates, learned.td_errors) for learned in team.learned] == [(BATCHES, ())] * 2


def test_where_nothing_was_drawn_nothing_is_learned(fleet: ThreadFleet) -> None:
    team = Team(fleet, 2)
    before = [bits(state) for state in team.states()]
    gradients = [learner.begin(0.5, None, None) for learner in team.learners]
    gradients = [learner.go_on(*gradients) for learner in team.learners]
    assert gradients == [None, None]
    assert [learner.finish(*gradients).num_updates for learner in team.learners] == [0, 0]
    assert [bits(state) for state in team.states()] == before


def test_a_sample_begun_anew_leaves_nothing_of_the_one_before(fleet: ThreadFleet) -> None:
    """Its chain was broken off by a loss, after the first of its updates."""
    team = Team(fleet, 2)
    gradients = [learner.begin(0.5, *team.samples()) for learner in team.learners]
    for learner in team.learners:
        learner.go_on(*gradients)
    team.learn()
    assert [learned.num_updates for learned in team.learned] == [BATCHES] * 2
    assert [state["updates"] for state in team.states()] == [BATCHES + 1] * 2
    assert bits(team.states()[0]) == bits(team.states()[1])


def test_what_is_not_finite_in_one_part_is_raised_by_all(fleet: ThreadFleet) -> None:
    team = Team(fleet, 2)
    gradients = [learner.begin(0.5, *team.samples()) for learner in team.learners]
    before = [bits(state) for state in team.states()]
    assert gradients[1] is not None
    broken = Gradient(np.full_like(gradients[1].vector, np.inf), 0.0, gradients[1].td_errors)
    for learner in team.learners:
        with pytest.raises(NonFiniteError, match="update 1 is not finite; the values are as before it"):
            learner.go_on(gradients[0], broken)
    assert [bits(state) for state in team.states()] == before
