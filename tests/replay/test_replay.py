"""Whatever engine made them, and however often the rings wrapped: what can be drawn is the plain loop's."""

from collections import Counter

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import registry
from scipy import stats

from qfleet.environments import EnvironmentConfig, make
from qfleet.environments.vector import ObservationLayout, Step, VectorEnvironment
from qfleet.errors import QfleetError
from qfleet.replay import replay as replay_module
from qfleet.replay.recorder import Block, Recorder
from qfleet.replay.replay import Replay, ReplayConfig, draw, empty_batch, update_priorities
from qfleet.replay.sum_tree import rebuild
from tests.environments.scripted import ScriptedEnv, register_scripted
from tests.replay.scalar_truth import DISCOUNT, LAYOUT, decoded, drawable, drive, truth

NUM_ENVS = 5
CHANCE = 1e-5

if "Scripted-v0" not in registry:
    register_scripted()

ENGINES = {
    "in-process": (ScriptedEnv, "in-process"),
    "processes": (ScriptedEnv, "processes"),
    "next-step": ("ScriptedNextStep-v0", "registered"),
    "same-step": ("ScriptedSameStep-v0", "registered"),
}


def make_recorder(num_envs: int, n_step: int, block_steps: int, num_masks: int = 0, **options) -> Recorder:
    return Recorder(
        num_envs,
        LAYOUT,
        num_masks,
        n_step=n_step,
        discount=DISCOUNT,
        max_steps_per_block=block_steps,
        **options,
    )


def fill(
    replay: Replay, vector: VectorEnvironment, recorder: Recorder, num_steps: int, block_steps: int
) -> list[int]:
    """Drives, stores, closes; the steps that each environment made."""
    taken: list[int] = []
    for block, so_far in drive(vector, recorder, num_steps, block_steps):
        replay.append(block)
        taken = so_far
    vector.close()
    return taken


def make_replay(capacity: int, frame_stack: int, n_step: int, *, exponent: float = 0.0, **options) -> Replay:
    config = ReplayConfig(replay_capacity=capacity, priority_exponent=exponent)
    settings = {"num_mask_actions": 0, "num_envs": NUM_ENVS, "max_steps_per_block": 8} | options
    return Replay(config, LAYOUT, frame_stack=frame_stack, n_step=n_step, **settings)


@pytest.mark.parametrize("frame_stack", [1, 4])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_plain_loops_transitions(engine: str, n_step: int, frame_stack: int) -> None:
    source, name = ENGINES[engine]
    config = EnvironmentConfig(num_envs=NUM_ENVS, engine=name, num_processes=2)  # pyright: ignore[reportArgumentType]
    vector = make(source, config)
    replay = make_replay(1000, frame_stack, n_step)
    taken = fill(replay, vector, make_recorder(NUM_ENVS, n_step, 7), 60, 7)
    expected = truth(taken, n_step, frame_stack)
    assert len(replay) == len(expected) > 250
    assert drawable(replay) == expected


@pytest.mark.parametrize("exponent", [0.0, 0.6])
@pytest.mark.parametrize("frame_stack", [1, 4])
@pytest.mark.parametrize("capacity", [64, 100])
def test_wrapped_many_times_the_living_decode_and_the_dead_are_not_drawn(
    capacity: int, frame_stack: int, exponent: float
) -> None:
    vector = make("ScriptedNextStep-v0", EnvironmentConfig(num_envs=NUM_ENVS, engine="registered"))
    replay = make_replay(capacity, frame_stack, 3, exponent=exponent)
    num_drawn = 0
    for block, taken in drive(vector, make_recorder(NUM_ENVS, 3, 4), 300, 4):
        replay.append(block)
        check_living(replay, Counter(truth(taken, 3, frame_stack)))
        num_drawn += check_draws(replay, counter=sum(taken))
    assert num_drawn > 1000 and replay.transitions.num_rows > 10 * capacity


def check_living(replay: Replay, everything: Counter) -> None:
    living = Counter(drawable(replay))
    assert not living - everything
    # The rings keep nearly all they have room for: only truncated ends cost frames.
    assert len(replay) >= min(replay.transitions.num_rows, replay.config.replay_capacity // 2)


def check_draws(replay: Replay, counter: int) -> int:
    """Draws and re-weights; returns how many rows were drawn."""
    first, end = replay.first, replay.transitions.num_rows
    if len(replay.tree):
        capacity = replay.config.replay_capacity
        slots = {row % capacity for row in range(first, end)}
        dead = [slot for slot in range(capacity) if slot not in slots]
        assert (replay.tree[dead] == 0).all()
        rebuilt = replay.tree.copy()
        rebuild(rebuilt, replay.tree_offsets)
        assert rebuilt.tobytes() == replay.tree.tobytes()
    batch = empty_batch(16, LAYOUT, replay.frame_stack, 0)
    view = replay.view()
    draw(view, 1, counter, 0.5, batch)
    assert batch.rows.min() >= first and batch.rows.max() < end
    errors = np.random.default_rng(counter).exponential(5, 16).astype(np.float32)
    update_priorities(view, batch.rows, errors, replay.config.priority_exponent, 1e-6)
    return 16


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_where_frames_run_out_first_transitions_die_with_their_frames(exponent: float) -> None:
    """Half the script's episodes are truncated, within 5 steps: more frames than there is room for."""
    vector = make(ScriptedEnv, EnvironmentConfig(num_envs=2, engine="in-process"))
    replay, num_killed = make_replay(3000, 4, 3, exponent=exponent, num_envs=2), 0
    everything = set(truth([3100, 3100], 3, 4))
    for block, taken in drive(vector, make_recorder(2, 3, 8), 3000, 8):
        replay.append(block)
        if len(replay) < min(replay.transitions.num_rows, 3000):
            num_killed += 1
            check_draws(replay, counter=sum(taken))
            assert {decoded(replay, replay.first + i) for i in range(30)} <= everything
    assert set(drawable(replay)) <= everything
    assert num_killed > 50


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_every_episode_truncated_after_one_step(exponent: float) -> None:
    """The worst case for the ring of frames: two frames a transition."""
    num_envs, frame_stack = 3, 4
    recorder = make_recorder(num_envs, 3, 8)
    replay = make_replay(1500, frame_stack, 3, exponent=exponent, num_envs=num_envs)
    recorder.start(np.zeros((num_envs, 4), np.float32), None)
    for time in range(1, 801):
        recorder.record(np.full(num_envs, time % 3), one_step_episodes(num_envs, time))
        if time % 8 == 0:
            replay.append(recorder.take())
            check_draws(replay, time)
        if time % 160 == 0:
            for row in range(replay.first, replay.transitions.num_rows):
                stored = decoded(replay, row)
                episode = int(stored.reward)
                assert stored.observation[::4] == (2 * episode - 2,) * 4
                assert stored.next_observation[::4] == (2 * episode - 2,) * 3 + (2 * episode - 1,)
                assert stored.discount == np.float32(DISCOUNT) and stored.action == episode % 3
    assert 750 <= len(replay) < 1500


def one_step_episodes(num_envs: int, time: int) -> Step:
    """Step `time` ends episode `time`, whose frames are 2 time - 2 and 2 time - 1, and begins the next."""
    every, none = np.ones(num_envs, np.bool_), np.zeros(num_envs, np.bool_)
    return Step(
        observations=np.full((num_envs, 4), 2 * time, np.float32),
        rewards=np.full(num_envs, float(time)),
        terminated=none,
        truncated=every,
        final_observations=np.full((num_envs, 4), 2 * time - 1, np.float32),
        stepped=every,
        started=every,
        action_masks=None,
        final_action_masks=None,
    )


def test_rewards_are_clipped_where_asked() -> None:
    vector = make(ScriptedEnv, EnvironmentConfig(num_envs=2, engine="in-process"))
    replay = make_replay(500, 1, 3)
    taken = fill(replay, vector, make_recorder(2, 3, 5, reward_limit=1.0), 30, 5)
    assert drawable(replay) == truth(taken, 3, 1, limit=1.0)


class MaskedEnv(gymnasium.Env):
    """Of three actions, the one that equals time modulo 3 is forbidden; truncated every 4 steps."""

    observation_space = gymnasium.spaces.Box(0, 100, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def _look(self):
        mask = np.arange(3) != self.time % 3
        return np.full(4, self.time, np.float32), {"action_mask": mask.astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._look()

    def step(self, action):
        self.time += 1
        observation, info = self._look()
        return observation, 1.0, False, self.time == 4, info


@pytest.mark.parametrize("engine", ["in-process", "processes"])
def test_the_next_observations_masks_are_stored(engine) -> None:
    vector = make(MaskedEnv, EnvironmentConfig(num_envs=2, engine=engine, num_processes=1))
    recorder, replay = make_recorder(2, 1, 10, num_masks=3), make_replay(100, 1, 1, num_mask_actions=3)
    recorder.start(*vector.reset(0))
    for _ in range(10):
        recorder.record(np.zeros(2, np.int64), vector.step(np.zeros(2, np.int64)))
    vector.close()
    replay.append(recorder.take())
    batch = empty_batch(200, LAYOUT, 1, 3)
    draw(replay.view(), 0, 0, 1.0, batch)
    times = batch.observations[200:, 0].astype(int)
    assert set(times) == {1, 2, 3, 4}
    np.testing.assert_array_equal(batch.next_action_masks, np.arange(3) != times[:, None] % 3)


def test_without_masks_in_a_step_every_action_is_allowed() -> None:
    recorder, replay = make_recorder(2, 1, 4, num_masks=3), make_replay(100, 1, 1, num_mask_actions=3)
    recorder.start(np.zeros((2, 4), np.float32), None)
    recorder.record(np.zeros(2, np.int64), one_step_episodes(2, 1))
    replay.append(recorder.take())
    batch = empty_batch(8, LAYOUT, 1, 3)
    draw(replay.view(), 0, 0, 1.0, batch)
    assert batch.next_action_masks.all()


def test_cut_truncates_every_running_episode_where_it_stands() -> None:
    vector = make(ScriptedEnv, EnvironmentConfig(num_envs=NUM_ENVS, engine="in-process"))
    recorder, replay = make_recorder(NUM_ENVS, 3, 7), make_replay(500, 2, 3)
    taken = fill(replay, vector, recorder, 20, 7)
    before = Counter(drawable(replay))
    recorder.cut()
    replay.append(recorder.take())
    added = list((Counter(drawable(replay)) - before).elements())
    assert before == Counter(truth(taken, 3, 2)) and added
    for stored in added:  # bootstrapped from the current frame, with the discount of the rewards there were
        steps = round(np.log(stored.discount) / np.log(DISCOUNT))
        assert steps in (1, 2) and stored.next_observation[4:6] == stored.observation[4:6]
        assert stored.next_observation[6] - stored.observation[6] == steps
    assert (recorder.tails.length == 0).all() and (recorder.tails.current == -1).all()


def test_saved_tails_go_on_as_before() -> None:
    vector = make(ScriptedEnv, EnvironmentConfig(num_envs=NUM_ENVS, engine="in-process"))
    recorder, replay, taken = make_recorder(NUM_ENVS, 3, 7), make_replay(500, 2, 3), [0]
    for block, so_far in drive(vector, recorder, 20, 7):
        taken = so_far
        replay.append(block)
        state = {name: array.copy() for name, array in recorder.save_state().items()}
        for array in recorder.tails:
            array.fill(77)
        recorder.load_state(state)
    assert drawable(replay) == truth(taken, 3, 2)


def filled(exponent: float, num: int = 40) -> Replay:
    """A replay of single steps whose rewards are 0, 1, 2, …"""
    replay = make_replay(64, 1, 1, exponent=exponent, num_envs=1)
    numbers = np.arange(num)
    frames = {
        "observation": np.zeros((num, 4), np.float32),
        "back": np.zeros(num, np.int32),
        "action_mask": np.zeros((num, 0), np.bool_),
    }
    transitions = {
        "frame": numbers,
        "next_frame": numbers,
        "action": numbers.astype(np.int32),
        "reward": numbers.astype(np.float32),
        "discount": np.zeros(num, np.float32),
    }
    replay.append(Block(frames, transitions))
    return replay


def test_uniform_draws_are_uniform_and_unweighted() -> None:
    view, batch = filled(0.0).view(), empty_batch(32, LAYOUT, 1, 0)
    counts = np.zeros(40)
    for counter in range(2000):
        draw(view, 3, counter, 0.4, batch)
        counts += np.bincount(batch.rows, minlength=40)
        assert (batch.weights == 1).all()
    assert stats.chisquare(counts).pvalue > CHANCE


def test_prioritized_draws_and_their_weights() -> None:
    """P(i) = p_i^a / sum, w_i = (N P(i))^-b over the largest of the batch: by hand."""
    replay, exponent, importance = filled(0.7), 0.7, 0.5
    view = replay.view()
    errors = np.linspace(-2, 3, 40).astype(np.float32)
    update_priorities(view, np.arange(40), errors, exponent, 1e-6)
    priorities = (np.abs(errors.astype(np.float64)) + 1e-6) ** exponent
    np.testing.assert_allclose(replay.tree[:40], priorities, rtol=1e-6)  # float32 powers
    probability = priorities / priorities.sum()
    counts, batch = np.zeros(40), empty_batch(1, LAYOUT, 1, 0)
    for counter in range(40_000):
        draw(view, 9, counter, importance, batch)
        counts[batch.rows[0]] += 1
    enough = probability * 40_000 > 5
    expected = probability[enough] / probability[enough].sum() * counts[enough].sum()
    assert stats.chisquare(counts[enough], expected).pvalue > CHANCE
    batch = empty_batch(24, LAYOUT, 1, 0)
    draw(view, 9, 0, importance, batch)
    weights = (40 * probability[batch.rows]) ** -importance
    np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-6)


def test_new_transitions_get_the_largest_priority_so_far() -> None:
    replay = filled(1.0, num=10)
    assert (replay.tree[:10] == 1).all()
    update_priorities(replay.view(), np.array([2]), np.array([5.0], np.float32), 1.0, 1e-6)
    update_priorities(replay.view(), np.array([2]), np.array([0.5], np.float32), 1.0, 1e-6)
    one = {name: column[:1] for name, column in replay.transitions.read(0, 1).items()}
    replay.append(Block({name: column[:0] for name, column in replay.frames.columns.items()}, one))
    assert replay.tree[10] == pytest.approx(5 + 1e-6) and replay.tree[2] == pytest.approx(0.5 + 1e-6)


def test_priorities_travel_through_a_checkpoint() -> None:
    replay, restored = filled(0.6), filled(0.6)
    update_priorities(replay.view(), np.arange(30), np.linspace(0, 9, 30, dtype=np.float32), 0.6, 1e-6)
    restored.load_priorities({name: array.copy() for name, array in replay.save_priorities().items()})
    assert restored.tree.tobytes() == replay.tree.tobytes()
    assert restored.view().running[0] == replay.view().running[0]


def test_too_large_is_refused_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QfleetError) as raised:
        make_replay(10**13, 1, 1)
    line = str(raised.value)
    assert "\n" not in line and "10,000,000,000,000 transitions" in line
    suggested = int(line.split("--replay-capacity ")[1].split()[0])
    # What is suggested is accepted; no memory is touched for it, so this holds on any machine.
    monkeypatch.setattr(replay_module, "Ring", lambda *arguments: None)
    assert make_replay(suggested, 1, 1).memory_bytes < replay_module.available_memory_bytes()


def test_too_small_for_one_block_is_refused() -> None:
    with pytest.raises(QfleetError, match="replay_capacity is 135; one block of steps can bring 136"):
        make_replay(135, 1, 1, num_envs=8, max_steps_per_block=16)
    recorder = make_recorder(8, 1, 16)
    replay = make_replay(136, 1, 1, num_envs=8, max_steps_per_block=16)
    recorder.start(np.zeros((8, 4), np.float32), None)
    for time in range(1, 65):
        recorder.record(np.zeros(8, np.int64), one_step_episodes(8, time))
        if time % 16 == 0:
            replay.append(recorder.take())
            assert {stored.reward for stored in drawable(replay)} <= set(range(time - 20, time + 1))
            assert len(replay) >= 68


@pytest.mark.parametrize(
    "wrong",
    [
        {"replay_capacity": 0},
        {"priority_exponent": 1.5},
        {"importance_exponent": -0.1},
        {"priority_exponent": float("nan")},
        {"priority_floor": 0.0},
        {"priority_floor": float("nan")},
    ],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(QfleetError, match=next(iter(wrong))):
        ReplayConfig(**wrong)


def test_the_layout_is_stored_as_it_is() -> None:
    layout = ObservationLayout((2, 2, 3), np.dtype(np.uint8), is_image=True, channels_last=True)
    config = ReplayConfig(replay_capacity=10)
    options = {"num_mask_actions": 4, "num_envs": 1, "n_step": 1, "max_steps_per_block": 1}
    replay = Replay(config, layout, frame_stack=2, **options)
    assert replay.frames.columns["observation"].dtype == np.uint8
    assert replay.memory_bytes >= 10 * (12 + 4) + 10 * 28
