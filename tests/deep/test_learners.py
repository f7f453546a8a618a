"""Both learners on a real replay: equal to one another, and sound when a loss is not finite."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Learner
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import NetworkShape
from qfleet.deep.parameters import Parameters
from qfleet.deep.torch_learner import TorchLearner
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.replay.recorder import Block
from qfleet.replay.replay import Batch, Replay, draw, empty_batch
from tests.deep.networks import SHAPES, observations_for

NUM_ROWS = 200
CONFIG = DQNConfig(
    batch_size=16,
    replay_capacity=400,
    learning_rate=1e-3,
    target_update_every_updates=7,
    max_gradient_norm=1.0,
    priority_exponent=0.6,
    n_step=2,
)


def filled_replay(shape: NetworkShape, config: DQNConfig, num_masks: int = 0, scale: float = 1.0) -> Replay:
    generator = np.random.default_rng(0)
    replay = Replay(
        config,
        shape.layout,
        frame_stack=shape.frame_stack,
        num_mask_actions=num_masks,
        num_envs=1,
        n_step=config.n_step,
        max_steps_per_block=NUM_ROWS,
    )
    masks = generator.random((NUM_ROWS + 1, num_masks)) < 0.5
    masks[:, 1:2] = True
    frames = {
        "observation": observations_for(replace(shape, frame_stack=1), NUM_ROWS + 1),
        "back": np.minimum(np.arange(NUM_ROWS + 1), 1).astype(np.int32),
        "action_mask": masks,
    }
    transitions = {
        "frame": np.arange(NUM_ROWS),
        "next_frame": np.arange(1, NUM_ROWS + 1),
        "action": generator.integers(0, shape.num_actions, NUM_ROWS).astype(np.int32),
        "reward": (scale * generator.normal(size=NUM_ROWS)).astype(np.float32),
        "discount": generator.choice([0.0, 0.9, 0.81], NUM_ROWS).astype(np.float32),
    }
    replay.append(Block(frames, transitions))
    return replay


def torch_learner(config: DQNConfig, shape: NetworkShape, num_masks: int = 0, seed: int = 3) -> TorchLearner:
    return TorchLearner(
        config,
        shape,
        num_masks,
        seed,
        make_module=lambda: QNetwork(shape),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("name", ["mlp-dueling", "grid-last-stacked-dueling"])
def test_fifty_updates_leave_both_with_the_same_parameters(name: str, rate: float, masked: bool) -> None:
    shape, config = SHAPES[name], replace(CONFIG, target_update_rate=rate)
    num_masks = shape.num_actions if masked else 0
    compiled, torchs = CompiledLearner(config, shape, num_masks, 3), torch_learner(config, shape, num_masks)
    start = compiled.publish()
    torchs.warm_start(start)
    statistics, priorities = [], []
    for learner in (compiled, torchs):
        replay = filled_replay(shape, config, num_masks)
        learner.learn(replay.view(), 20, 0.4)
        learner.learn(replay.view(), 30, 0.7)
        statistics.append(learner.take_statistics())
        priorities.append(replay.tree[:NUM_ROWS].copy())
    moved = np.abs(compiled.publish().vector - start.vector).max()
    difference = np.abs(compiled.publish().vector - torchs.publish().vector).max()
    assert moved > 5e-3 and difference < 2e-4 * moved + 1e-6
    np.testing.assert_allclose(priorities[0], priorities[1], rtol=1e-3, atol=1e-4)
    assert statistics[0] == pytest.approx(statistics[1], rel=1e-3)
    targets = compiled.save_state()["target"], torchs.save_state()["target"]
    np.testing.assert_allclose(*targets, atol=2e-4 * moved + 1e-6)
    assert compiled.num_updates == torchs.num_updates == 50


def make_learner(kind: str, config: DQNConfig = CONFIG) -> Learner:
    shape = SHAPES["mlp-dueling"]
    return CompiledLearner(config, shape, 0, 3) if kind == "compiled" else torch_learner(config, shape)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_blocks_of_any_length_and_a_restart_give_the_same_bits(kind: str) -> None:
    shape = SHAPES["mlp-dueling"]
    whole, first, second = (make_learner(kind) for _ in range(3))
    replay = filled_replay(shape, CONFIG)
    whole.learn(replay.view(), 25, 0.4)
    replay = filled_replay(shape, CONFIG)
    first.learn(replay.view(), 4, 0.4)
    first.learn(replay.view(), 9, 0.4)
    second.num_updates = first.num_updates
    second.load_state(first.save_state())
    second.learn(replay.view(), 12, 0.4)
    for name, array in whole.save_state().items():
        if isinstance(array, np.ndarray):
            assert array.tobytes() == second.save_state()[name].tobytes(), name


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_a_batch_from_elsewhere_is_learned_like_one_drawn_here(kind: str) -> None:
    config = replace(CONFIG, priority_exponent=0.0)
    drawing, given = make_learner(kind, config), make_learner(kind, config)
    shape, replay = SHAPES["mlp-dueling"], filled_replay(SHAPES["mlp-dueling"], config)
    batch = empty_batch(config.batch_size, shape.layout, shape.frame_stack, 0)
    drawing.learn(replay.view(), 8, 0.4)
    for number in range(1, 9):
        draw(replay.view(), given.seed, number, 0.4, batch)
        before = given.publish().vector
        gradient = given.gradient(batch)
        np.testing.assert_array_equal(given.publish().vector, before)
        assert gradient.vector.shape == before.shape and gradient.td_errors.shape == (16,)
        given.apply(gradient)
    assert given.num_updates == 8
    assert given.take_statistics() == pytest.approx(drawing.take_statistics(), rel=1e-5)
    for name, array in drawing.save_state().items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(given.save_state()[name], array, err_msg=name)


def stacked_batches(shape: NetworkShape, config: DQNConfig, num_batches: int) -> Batch:
    """Minibatches in arrays with one more axis in front."""
    replay, drawn = filled_replay(shape, config), []
    for number in range(1, num_batches + 1):
        drawn.append(empty_batch(config.batch_size, shape.layout, shape.frame_stack, 0))
        draw(replay.view(), 5, number, 0.4, drawn[-1])
    return Batch(*(np.stack(parts) for parts in zip(*drawn, strict=True)))


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_batches_given_together_are_learned_like_one_after_the_other(kind: str) -> None:
    config, shape = replace(CONFIG, priority_exponent=0.0), SHAPES["mlp-dueling"]
    together, one_by_one = make_learner(kind, config), make_learner(kind, config)
    batches = stacked_batches(shape, config, 9)
    errors = together.learn_batches(batches)
    expected = [one_by_one.learn_batch(Batch(*(part[number] for part in batches))) for number in range(9)]
    np.testing.assert_array_equal(errors, expected)
    assert together.num_updates == 9
    assert together.take_statistics() == pytest.approx(one_by_one.take_statistics(), rel=1e-5)
    for name, array in one_by_one.save_state().items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(together.save_state()[name], array, err_msg=name)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_of_batches_given_together_those_before_one_that_is_not_finite_are_learned(kind: str) -> None:
    config, shape = replace(CONFIG, priority_exponent=0.0), SHAPES["mlp-dueling"]
    learner, sound = make_learner(kind, config), make_learner(kind, config)
    batches = stacked_batches(shape, config, 5)
    sound.learn_batches(Batch(*(part[:2] for part in batches)))
    batches.rewards[2, 3] = np.nan
    with pytest.raises(NonFiniteError, match="update 3 is not finite"):
        learner.learn_batches(batches)
    assert learner.num_updates == 2
    np.testing.assert_array_equal(learner.publish().vector, sound.publish().vector)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_the_gradient_of_two_half_batches_is_that_of_the_whole(kind: str) -> None:
    config = replace(CONFIG, priority_exponent=0.0)
    learner, shape = make_learner(kind, config), SHAPES["mlp-dueling"]
    replay, batch = filled_replay(shape, config), empty_batch(16, shape.layout, shape.frame_stack, 0)
    draw(replay.view(), 5, 1, 0.4, batch)
    whole = learner.gradient(batch)
    halves = []
    for rows in (slice(0, 8), slice(8, 16)):
        seen = np.concatenate([batch.observations[:16][rows], batch.observations[16:][rows]])
        parts = {name: array[rows] for name, array in batch._asdict().items() if name != "observations"}
        halves.append(learner.gradient(Batch(observations=seen, **parts)))
    mean = np.mean([half.vector for half in halves], 0)
    np.testing.assert_allclose(mean, whole.vector, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([half.td_errors for half in halves]), whole.td_errors, rtol=1e-4
    )
    assert np.mean([half.loss for half in halves]) == pytest.approx(whole.loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: str) -> None:
    config = replace(CONFIG, priority_exponent=0.0)
    learner, shape = make_learner(kind, config), SHAPES["mlp-dueling"]
    batch = empty_batch(16, shape.layout, shape.frame_stack, 0)
    draw(filled_replay(shape, config).view(), 5, 1, 0.4, batch)
    gradient, before = learner.gradient(batch), learner.publish().vector
    gradient.vector[3] = np.inf
    with pytest.raises(NonFiniteError, match="update 1 is not finite"):
        learner.apply(gradient)
    batch.rewards[2] = np.nan
    with pytest.raises(NonFiniteError, match="update 1 is not finite"):
        learner.learn_batch(batch)
    assert learner.num_updates == 0 and learner.take_statistics() == {}
    np.testing.assert_array_equal(learner.publish().vector, before)


def test_learning_lowers_the_loss_of_fixed_targets() -> None:
    shape, config = SHAPES["mlp"], replace(CONFIG, target_update_every_updates=10**6, priority_exponent=0.0)
    learner, replay = CompiledLearner(config, shape, 0, 1), filled_replay(shape, config)
    columns, seen = replay.transitions.columns, replay.frames.columns["observation"]
    columns["reward"][:NUM_ROWS] = seen[:NUM_ROWS, 0] + columns["action"][:NUM_ROWS]
    columns["discount"][:] = 0
    learner.learn(replay.view(), 20, 1.0)
    before = learner.take_statistics()["train/loss"]
    learner.learn(replay.view(), 1000, 1.0)
    learner.take_statistics()
    learner.learn(replay.view(), 20, 1.0)
    assert learner.take_statistics()["train/loss"] < 0.1 * before
    assert learner.take_statistics() == {}


@pytest.mark.parametrize(("reward", "size"), [(np.nan, 1), (np.inf, 1), (-np.inf, 1), (3e38, 1000)])
@pytest.mark.parametrize("clipping", [0.0, 10.0])
@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_what_is_not_finite_is_named_and_never_learned(
    kind: str, clipping: float, reward: float, size: float
) -> None:
    """The last is a finite loss whose gradient overflows."""
    config = replace(CONFIG, loss="squared", max_gradient_norm=clipping, priority_exponent=0.0)
    learner, replay = make_learner(kind, config), filled_replay(SHAPES["mlp-dueling"], config)
    replay.transitions.columns["reward"][:150] = reward
    replay.frames.columns["observation"][:] *= size
    before = learner.publish().vector
    with pytest.raises(NonFiniteError, match="update 1 is not finite") as raised:
        learner.learn(replay.view(), 5, 1.0)
    assert "\n" not in str(raised.value) and learner.num_updates == 0
    np.testing.assert_array_equal(learner.publish().vector, before)
    assert all(np.isfinite(a).all() for a in learner.save_state().values() if isinstance(a, np.ndarray))


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_published_parameters_are_a_copy_and_policies_follow_them(kind: str) -> None:
    learner, shape = make_learner(kind), SHAPES["mlp-dueling"]
    published, observations = learner.publish(), observations_for(shape, 6)
    policy = learner.policy()
    policy.load(published)
    before = policy.values(observations).copy()
    learner.learn(filled_replay(shape, CONFIG).view(), 5, 0.4)
    np.testing.assert_array_equal(policy.values(observations), before)
    policy.load(learner.publish())
    assert np.abs(policy.values(observations) - before).max() > 1e-4
    assert (published.version, learner.publish().version) == (0, 5)
    greedy = policy.act(observations, np.ones((6, 0), np.bool_), 0.0, 0, 0)
    np.testing.assert_array_equal(greedy, policy.values(observations).argmax(1))


def test_a_compiled_policy_takes_any_number_of_observations() -> None:
    learner, shape = make_learner("compiled"), SHAPES["mlp-dueling"]
    policy, observations = learner.policy(), observations_for(shape, 9)
    policy.load(learner.publish())
    whole = policy.values(observations).copy()
    for num in (1, 9, 3):
        np.testing.assert_allclose(policy.values(observations[:num]), whole[:num], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_warm_start_takes_the_values_and_refuses_another_network(kind: str) -> None:
    learner = make_learner(kind)
    vector = np.random.default_rng(0).normal(size=len(learner.publish().vector)).astype(np.float32)
    learner.warm_start(Parameters(99, vector))
    state = learner.save_state()
    np.testing.assert_array_equal(learner.publish().vector, vector)
    np.testing.assert_array_equal(state["target"], vector)
    with pytest.raises(QfleetError, match="have 3 parameters, this network has"):
        learner.warm_start(Parameters(0, np.zeros(3, np.float32)))
