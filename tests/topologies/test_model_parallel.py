"""Model parallel, in turns: the learning of one unsplit network; what two workers saved is taken up by others."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from qfleet.backends.processes import ProcessFleet
from qfleet.deep.actor import Actor
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Policy
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import decide
from qfleet.deep.parameters import Parameters
from qfleet.deep.tensor_parallel import network_without_values
from qfleet.deep.torch_learner import TorchLearner
from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import QfleetError
from qfleet.replay.replay import Replay
from qfleet.topologies.model_parallel import ModelParallel, ModelParallelConfig, ModelParallelTask

BLOCK, NUM_ENVS, SEED, MAX_STEPS = 24, 3, 5, 480
CONFIG = DQNConfig(
    hidden_sizes=(16, 16),
    batch_size=8,
    replay_capacity=300,
    learning_starts_steps=30,
    updates_per_step=0.5,
    target_update_every_updates=10,
    exploration_steps=200,
    priority_exponent=0.6,
    n_step=2,
)
ENVIRONMENTS = EnvironmentConfig(num_envs=NUM_ENVS)


def _actor(policy: Policy) -> Actor:
    environment = make("CartPole-v1", ENVIRONMENTS)
    return Actor(environment, policy, CONFIG, num_mask_actions=0, seed=SEED, block_steps=BLOCK)


def _replay() -> Replay:
    return Replay(
        CONFIG,
        SHAPE.layout,
        frame_stack=1,
        num_mask_actions=0,
        num_envs=NUM_ENVS,
        n_step=CONFIG.n_step,
        max_steps_per_block=BLOCK // NUM_ENVS,
    )


def _shape() -> Any:
    environment = make("CartPole-v1", ENVIRONMENTS)
    shape = decide(CONFIG, environment.layout, 1, environment.num_actions)
    environment.close()
    return shape


SHAPE = _shape()
TASK = ModelParallelTask(
    CONFIG, SHAPE, 0, SEED, MAX_STEPS, partial(network_without_values, SHAPE), _actor, _replay
)


def unsplit() -> TorchLearner:
    make_module, device = (lambda: QNetwork(SHAPE)), torch.device("cpu")
    return TorchLearner(CONFIG, SHAPE, 0, SEED, make_module=make_module, device=device)


def alone(until_steps: int) -> tuple[TorchLearner, list[float], Replay]:
    """One network that is not split, by the same rounds."""
    learner, replay, returns = unsplit(), _replay(), []
    actor = _actor(learner.policy())
    actor.start()
    while actor.num_steps < until_steps:
        gathered = actor.gather(learner.publish(), MAX_STEPS - actor.num_steps)
        returns += gathered.returns
        replay.append(gathered.block)
        due = CONFIG.updates_due(actor.num_steps) - learner.num_updates
        learner.learn(replay.view(), due, CONFIG.importance_exponent_at(actor.num_steps / MAX_STEPS))
    actor.close()
    return learner, returns, replay


@pytest.fixture(scope="module")
def pair() -> Any:
    fleet = ProcessFleet()
    topology = ModelParallel(fleet, TASK, ModelParallelConfig(BLOCK, 200.0), 2)
    yield topology
    topology.close()
    fleet.close()


def test_two_workers_learn_what_one_learns_and_others_go_on(pair: ModelParallel) -> None:
    assert pair.parameters().vector.tobytes() == unsplit().publish().vector.tobytes()
    first, second = pair.advance(200), pair.advance(240)
    learner, returns, replay = alone(240)
    assert (second.num_steps, pair.num_updates) == (240, learner.num_updates) == (240, 105)
    assert first.returns + second.returns == returns and len(returns) > 5
    assert sum(first.lengths + second.lengths) <= 240 and second.statistics["replay/size"] == len(replay)
    _assert_roles(pair.role_metrics())
    state = pair.save_state()
    np.testing.assert_allclose(pair.parameters().vector, learner.publish().vector, atol=1e-5)
    np.testing.assert_allclose(
        state["replay"]["priorities"]["priorities"][:200], replay.tree[:200], atol=1e-3
    )
    _goes_on_alone(state)
    _goes_on_with_other_workers(state, pair)


def _assert_roles(metrics: dict[str, float]) -> None:
    """Worker 0 acts while the other only computes its parts: it has more to do."""
    assert metrics["fleet/worker_0/is_bottleneck"] == 1 - metrics["fleet/other_worker/is_bottleneck"] == 1
    assert 0 < metrics["fleet/other_worker/busy"] < metrics["fleet/worker_0/busy"] <= 1
    assert metrics["fleet/updates_per_step"] == pytest.approx(105 / 240)


def _goes_on_alone(state: dict[str, Any]) -> None:
    learner = unsplit()
    learner.num_updates = state["updates"]
    learner.load_state(state["learner"])
    replay = _replay()
    replay.load_state(state["replay"])
    learner.learn(replay.view(), 5, 0.5)
    assert np.isfinite(learner.publish().vector).all() and learner.num_updates == 110


def _goes_on_with_other_workers(state: dict[str, Any], pair: ModelParallel) -> None:
    """One worker takes up what two have saved, and learns what the two learn on."""
    fleet = ProcessFleet()
    other = ModelParallel(fleet, TASK, ModelParallelConfig(BLOCK, 200.0), 1)
    other.load_state(state)
    np.testing.assert_array_equal(other.parameters().vector, state["learner"]["parameters"])
    reports = [topology.advance(MAX_STEPS) for topology in (pair, other)]
    assert reports[0].num_steps == reports[1].num_steps == MAX_STEPS
    assert reports[0].returns == reports[1].returns and len(reports[0].returns) > 5
    rate = other.role_metrics()["fleet/worker_0/steps_per_second"]
    assert rate * reports[1].reading.seconds == pytest.approx(MAX_STEPS - 240), (
        "those of others are not its own"
    )
    np.testing.assert_allclose(pair.parameters().vector, other.parameters().vector, atol=1e-4)
    other.close()
    fleet.close()


def test_values_of_another_run_can_be_begun_with(pair: ModelParallel) -> None:
    vector = np.random.default_rng(0).normal(size=len(pair.parameters().vector)).astype(np.float32)
    pair.set_parameters(Parameters(0, vector))
    np.testing.assert_array_equal(pair.parameters().vector, vector)
    with pytest.raises(QfleetError, match="7 parameters, this network has"):
        pair.set_parameters(Parameters(0, np.zeros(7, np.float32)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: ModelParallelConfig(block_steps=0), "block_steps is 0; it must be at least 1"),
        (
            lambda: ModelParallelConfig(stall_timeout_seconds=0),
            "stall_timeout_seconds is 0; it must be above",
        ),
    ],
)
def test_settings_out_of_range_are_refused(config: Any, words: str) -> None:
    with pytest.raises(QfleetError, match=words):
        config()
