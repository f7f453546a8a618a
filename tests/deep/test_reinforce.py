"""The REINFORCE learner: its settings, its gradient's parts, its steps, and what it learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qfleet.deep import reinforce_learner
from qfleet.deep.compiled.reinforce import compiled_reinforce_learner
from qfleet.deep.episodes import EpisodeActor, Episodes
from qfleet.deep.evaluation import evaluate
from qfleet.deep.modules import QNetwork
from qfleet.deep.networks import decide
from qfleet.deep.parameters import Parameters
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.reinforce_learner import ReinforceLearner
from qfleet.deep.torch_reinforce import torch_reinforce_learner
from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import NonFiniteError, QfleetError
from tests.deep.networks import SHAPES, observations_for
from tests.deep.small_mdp import LAYOUT, SmallMDP

SHAPE = SHAPES["mlp"]
CONFIG = ReinforceConfig(hidden_sizes=(16, 12), discount=0.9, entropy_coefficient=0.1)
KINDS = ["compiled", "torch"]


def learner_of(kind: str, config: ReinforceConfig = CONFIG, name: str = "mlp", seed: int = 3):
    shape = SHAPES[name]
    if kind == "compiled":
        return compiled_reinforce_learner(config, shape, seed)
    return torch_reinforce_learner(
        config, shape, seed, make_module=lambda: QNetwork(shape), device=torch.device("cpu")
    )


def episodes_of(lengths: list[int], name: str = "mlp", *, masked: bool = False, seed: int = 0) -> Episodes:
    generator, shape, num = np.random.default_rng(seed), SHAPES[name], sum(lengths)
    masks = generator.random((num, shape.num_actions if masked else 0)) < 0.5
    actions = generator.integers(0, shape.num_actions, num)
    if masked:
        masks[np.arange(num), actions] = True
    return Episodes(
        observations_for(shape, num, seed),
        masks,
        actions,
        generator.normal(size=num),
        np.array(lengths),
        generator.random(len(lengths)) < 0.5,
        observations_for(shape, len(lengths), seed + 1),
    )


def joined(*parts: Episodes) -> Episodes:
    return Episodes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1.0),
        ("baseline_learning_rate", 2.0),
        ("discount", 1.5),
        ("episodes_per_update", 0),
        ("entropy_coefficient", -0.1),
        ("max_gradient_norm", float("nan")),
        ("max_episode_steps", 0),
        ("dueling", True),
        ("network", "transformer"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(QfleetError, match=field) as raised:
        ReinforceConfig(**{field: value})
    assert "\n" not in str(raised.value)


def textbook_gradient(learner: ReinforceLearner, name: str, episodes: Episodes) -> NDArray:
    """The losses in PyTorch's own words, episode by episode, differentiated by it; policy first."""
    config, shape = learner.config, SHAPES[name]
    policy, baseline = QNetwork(shape), QNetwork(replace(shape, num_actions=1))
    modules = [policy, baseline] if config.baseline else [policy]
    tensors = [tensor for module in modules for tensor in module.parameters()]
    vector = torch.from_numpy(learner.parameters().vector)
    for tensor, part in zip(tensors, vector.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = part.view(tensor.shape).clone()
    total, start, num = torch.zeros(()), 0, len(episodes.lengths)
    for i, length in enumerate(episodes.lengths):
        steps = slice(start, start + int(length))
        seen = torch.from_numpy(episodes.observations[steps])
        ends = bool(episodes.truncated[i]) and config.baseline
        following = (
            float(baseline(torch.from_numpy(episodes.final_observations[i : i + 1])).detach())
            if ends
            else 0.0
        )
        returns = []
        for reward in episodes.rewards[steps][::-1]:
            following = reward + config.discount * following
            returns.insert(0, following)
        goals = torch.tensor(returns)
        logits = policy(seen)
        if episodes.masks.shape[1]:
            logits = logits.masked_fill(~torch.from_numpy(episodes.masks[steps]), -1e30)
        categorical = torch.distributions.Categorical(logits=logits)
        values = baseline(seen)[:, 0] if config.baseline else torch.zeros(len(goals))
        weights = config.discount ** torch.arange(len(goals)) if config.discount_states else torch.ones(1)
        chosen = categorical.log_prob(torch.from_numpy(episodes.actions[steps]))
        parts = (goals - values.detach()) * chosen + config.entropy_coefficient * categorical.entropy()
        total = total - (weights * parts).sum() / num + ((goals - values) ** 2).sum() / 2 / num
        start = steps.stop
    return torch.cat([gradient.reshape(-1) for gradient in torch.autograd.grad(total, tensors)]).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "masked", "changes"),
    [
        ("mlp", False, {}),
        ("mlp", True, {"discount_states": True}),
        ("mlp", True, {"baseline": False, "discount_states": True}),
        ("mlp-stacked", False, {"entropy_coefficient": 0.0}),
        ("grid-last", True, {}),
    ],
)
def test_the_gradient_is_that_of_the_textbooks_loss(
    kind: str, name: str, masked: bool, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reinforce_learner, "STEPS_AT_A_TIME", 7)  # so that there are several parts
    learner = learner_of(kind, replace(CONFIG, **changes), name)
    episodes = episodes_of([5, 1, 9, 4], name, masked=masked)
    assert episodes.truncated.any() and not episodes.truncated.all()
    found, expected = learner.gradient(episodes).vector, textbook_gradient(learner, name, episodes)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_gradients_average_to_that_of_all_episodes(kind: str) -> None:
    learner = learner_of(kind)
    first, second = episodes_of([5, 7]), episodes_of([3, 11], seed=9)
    mean = (learner.gradient(first).vector + learner.gradient(second).vector) / 2
    whole = learner.gradient(joined(first, second))
    np.testing.assert_allclose(mean, whole.vector, rtol=1e-4, atol=1e-5)
    statistics = learner.take_statistics()
    assert statistics["train/loss"] == pytest.approx(whole.losses.policy, rel=1e-5)
    assert 0 < statistics["train/entropy"] <= np.log(3) and "train/gradient_norm" not in statistics
    assert learner.take_statistics() == {}


def test_compiled_and_pytorch_take_the_same_steps() -> None:
    compiled, torchs = learner_of("compiled"), learner_of("torch")
    start = compiled.parameters()
    torchs.set_parameters(start)
    for number in range(10):
        for learner in (compiled, torchs):
            learner.apply(learner.gradient(episodes_of([4, 6, 2], seed=number)).vector)
    moved = np.abs(compiled.parameters().vector - start.vector)
    difference = np.abs(compiled.parameters().vector - torchs.parameters().vector)
    assert moved.max() > 0.02 and difference.max() < 1e-3 * moved.max()


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_has_its_own_step_size(kind: str) -> None:
    for learning_rate, baseline_rate in ((1e-2, 0.0), (0.0, 1e-2)):
        config = replace(CONFIG, learning_rate=learning_rate, baseline_learning_rate=baseline_rate)
        learner = learner_of(kind, config)
        before, num = learner.parameters().vector, len(learner.publish().vector)
        norm = learner.apply(learner.gradient(episodes_of([4, 6])).vector)
        moved = np.abs(learner.parameters().vector - before)
        assert norm > 0 and learner.num_updates == 1
        # Adam's first step is as long as the step size wherever there is a gradient.
        assert moved[:num].max() == pytest.approx(learning_rate, rel=1e-3)
        assert moved[num:].max() == pytest.approx(baseline_rate, rel=1e-3)


def test_without_a_baseline_there_is_no_network_for_it() -> None:
    learner = learner_of("compiled", replace(CONFIG, baseline=False))
    assert len(learner.parameters().vector) == len(learner.publish().vector)
    assert learner.gradient(episodes_of([4, 6])).losses.baseline == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_goes_on_with_the_same_bits(kind: str) -> None:
    whole, first, second = (learner_of(kind) for _ in range(3))
    batches = [episodes_of([4, 6], seed=number) for number in range(6)]
    for episodes in batches:
        whole.apply(whole.gradient(episodes).vector)
    for episodes in batches[:4]:
        first.apply(first.gradient(episodes).vector)
    second.num_updates = first.num_updates
    second.load_state(first.save_state())
    for episodes in batches[4:]:
        second.apply(second.gradient(episodes).vector)
    assert whole.parameters().vector.tobytes() == second.parameters().vector.tobytes()
    assert whole.publish().version == second.publish().version == 6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_named_and_never_learned(kind: str) -> None:
    learner, episodes = learner_of(kind), episodes_of([4, 6])
    before = learner.parameters().vector
    episodes.rewards[2] = np.inf
    with pytest.raises(NonFiniteError, match="loss of update 1 is not finite"):
        learner.gradient(episodes)
    vector = learner.gradient(episodes_of([4, 6])).vector
    vector[-1] = np.nan
    with pytest.raises(NonFiniteError, match="gradient of update 1 is not finite"):
        learner.apply(vector)
    np.testing.assert_array_equal(learner.parameters().vector, before)
    assert learner.num_updates == 0


@pytest.mark.parametrize("kind", KINDS)
def test_policies_follow_what_is_published_and_workers_what_is_shared(kind: str) -> None:
    learner, worker = learner_of(kind), learner_of(kind, seed=8)
    episodes = episodes_of([4, 6])
    learner.apply(learner.gradient(episodes).vector)
    worker.set_parameters(learner.parameters())
    np.testing.assert_array_equal(worker.gradient(episodes).vector, learner.gradient(episodes).vector)
    policy, other = learner.policy(), worker.policy()
    policy.load(learner.publish())
    other.load(worker.publish())
    np.testing.assert_array_equal(
        policy.values(episodes.observations).copy(), other.values(episodes.observations)
    )
    fresh = learner_of(kind, seed=9)
    fresh.warm_start(learner.publish())
    np.testing.assert_array_equal(fresh.publish().vector, learner.publish().vector)
    for give in (fresh.warm_start, fresh.set_parameters):
        with pytest.raises(QfleetError, match="have 3 parameters, this network has"):
            give(Parameters(0, np.zeros(3, np.float32)))


def train(
    name: str, config: ReinforceConfig, seed: int, num_updates: int, num_envs: int = 8, **options: Any
) -> tuple[float, NDArray]:
    """Mean greedy return after so many updates, and the parameters."""
    environments = EnvironmentConfig(num_envs=num_envs, **options)
    environment = make(name, environments)
    shape = decide(config, environment.layout, environment.frame_stack, environment.num_actions)
    learner = compiled_reinforce_learner(config, shape, seed)
    actor = EpisodeActor(environment, learner.policy(), config, num_mask_actions=0, seed=seed)
    for _ in range(num_updates):
        learner.apply(learner.gradient(actor.gather(learner.publish()).episodes).vector)
    actor.close()
    evaluator, policy = make(name, environments, training=False), learner.policy()
    policy.load(learner.publish())
    evaluation = evaluate(evaluator, policy, num_envs, 99, 1000)
    evaluator.close()
    assert evaluation is not None
    return evaluation.mean, learner.parameters().vector


@pytest.mark.parametrize(
    "changes", [{}, {"discount_states": True}, {"baseline": False, "episodes_per_update": 32}]
)
def test_frozen_lake_is_solved(changes: dict[str, Any]) -> None:
    config = ReinforceConfig(hidden_sizes=(64, 64), **changes)
    assert train("FrozenLake-v1", config, 2, 100, environment_options=("is_slippery=False",))[0] == 1


def test_the_same_seed_gives_the_same_bits() -> None:
    runs = [train("CartPole-v1", CONFIG, seed, 3)[1].tobytes() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_cartpole_gets_much_better_than_chance() -> None:
    assert train("CartPole-v1", ReinforceConfig(hidden_sizes=(64, 64)), 1, 25)[0] > 150


def test_the_small_mdps_layout_is_one_hot() -> None:
    observations, masks = SmallMDP(5).reset(0)
    assert observations.shape == (5, *LAYOUT.shape) and (observations.sum(axis=1) == 1).all()
    assert masks is not None and masks.shape == (5, 3)
