"""What `make`, `describe` and `make_single` accept, pick and refuse; every refusal is one line."""

import os
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from qfleet.environments import EnvironmentConfig, describe, environments, make, make_single
from qfleet.errors import QfleetError
from tests.environments.scripted import ScriptedEnv


def no_environment():
    return 3


REFUSALS = [
    ("CartPol-v1", {}, "unknown; the nearest are CartPole-v1"),
    ("LunarLandar-v3", {}, "LunarLander-v3"),
    ("ALE/Pung-v5", {}, "ALE/Pong-v5"),
    ("MinAtar/Brekout-v1", {}, "MinAtar/Breakout-v1"),
    ("Taxi-v3", {}, "Taxi-v4 works"),
    ("CartPole-v9", {}, "CartPole-v1 works"),
    ("not an id!", {}, "unknown"),
    ("Pendulum-v1", {}, "Discrete"),
    ("no_such_module:Some-v0", {}, "no_such_module"),
    ("CartPole-v1", {"import_modules": ("no_such_module",)}, "no_such_module"),
    ("CartPole-v1", {"wrappers": ("TimeLimt=3",)}, "TimeLimit"),
    ("CartPole-v1", {"wrappers": ("TransformReward=3",)}, "wrap it in Python"),
    ("CartPole-v1", {"wrappers": ("TimeLimit",)}, "max_episode_steps"),
    ("CartPole-v1", {"wrappers": ("TimeLimit=steps:3",)}, "max_episode_steps"),
    ("CartPole-v1", {"wrappers": ("GrayscaleObservation",)}, "does not fit"),
    ("CartPole-v1", {"environment_options": ("colour=red",)}, "colour"),
    ("CartPole-v1", {"engine": "ale"}, "in-process does"),
    ("CartPole-v1", {"engine": "envpool", "wrappers": ("TimeLimit=3",)}, "in-process and processes can"),
    ("Acrobot-v1", {"engine": "registered"}, "in-process and processes run it"),
    ("MinAtar/Breakout-v1", {"engine": "envpool"}, "in-process and processes run it"),
    ("ALE/Pong-v5", {"engine": "ale", "environment_options": ("mode=1",)}, "in-process takes it"),
    (ScriptedEnv, {"engine": "registered"}, "needs an id"),
    (ScriptedEnv, {"environment_options": ("index=3",)}, "ids only"),
    (ScriptedEnv(0), {"num_envs": 3}, "hand in a function"),
    (ScriptedEnv(0), {"engine": "processes"}, "in-process does"),
    (no_environment, {}, "should return a gymnasium.Env"),
]


@pytest.mark.parametrize(("environment", "changes", "message"), REFUSALS)
def test_refusals_are_one_line_that_says_what_works(environment, changes, message):
    with pytest.raises(QfleetError, match=message) as caught:
        make(environment, EnvironmentConfig(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_envs": 0},
        {"engine": "fast"},
        {"num_processes": -1},
        {"step_timeout_seconds": 0},
        {"environment_options": ("slippery",)},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(QfleetError):
        EnvironmentConfig(**changes)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MinAtar/Breakout-v1", "minatar.gym", "minatar"),
        ("LunarLander-v3", "Box2D", "box2d"),
    ],
)
def test_a_missing_package_names_its_extra(name, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [key for key in sys.modules if key.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    for known in [key for key in gymnasium.registry if key.startswith(name.partition("/")[0] + "/")]:
        monkeypatch.delitem(gymnasium.registry, known)
    with pytest.raises(QfleetError, match=rf'pip install "qfleet\[{extra}\]"'):
        make(name, EnvironmentConfig())


def test_missing_envpool_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(QfleetError, match=r'pip install "qfleet\[envpool\]"'):
        make("CartPole-v1", EnvironmentConfig(engine="envpool"))


@pytest.mark.parametrize(
    ("name", "changes", "engine"),
    [
        ("CartPole-v1", {}, "registered"),
        ("CartPole-v1", {"num_envs": 3}, "in-process"),
        ("CartPole-v1", {"wrappers": ("TimeLimit=9",)}, "in-process"),
        ("CartPole-v1", {"environment_options": ("sutton_barto_reward=True",)}, "in-process"),
        ("Acrobot-v1", {}, "in-process"),
        ("MinAtar/Breakout-v1", {}, "in-process"),
        ("ALE/Pong-v5", {}, "ale"),
        ("Breakout-v5", {}, "envpool"),
    ],
)
def test_auto_picks(name, changes, engine):
    config = EnvironmentConfig(**{"num_envs": 4, **changes})
    vector = make(name, config)
    observations, _ = vector.reset(0)
    assert vector.engine == engine
    assert observations.shape == (config.num_envs, *vector.layout.shape)
    assert observations.dtype == vector.layout.dtype
    description = describe(name, EnvironmentConfig(**changes))
    assert (description.layout, description.num_actions) == (vector.layout, vector.num_actions)
    assert description.frame_stack == vector.frame_stack
    vector.close()


class SlowEnv(ScriptedEnv):
    def step(self, action):
        time.sleep(0.003)
        return super().step(action)


@pytest.mark.skipif((os.cpu_count() or 1) == 1, reason="processes need a second core to help")
def test_auto_takes_processes_for_slow_environments_alone():
    for source, engine in ((SlowEnv, "processes"), (ScriptedEnv, "in-process")):
        vector = make(lambda source=source: source(0), EnvironmentConfig(num_envs=2))
        assert vector.engine == engine
        vector.close()


def test_descriptions():
    cartpole = describe("CartPole-v1", EnvironmentConfig())
    assert (cartpole.name, cartpole.reward_threshold, cartpole.max_episode_steps) == (
        "CartPole-v1",
        475.0,
        500,
    )
    short = describe("CartPole-v1", EnvironmentConfig(wrappers=("TimeLimit=20",)))
    assert short.max_episode_steps == 20
    assert describe("ALE/Pong-v5", EnvironmentConfig()).max_episode_steps == 27000
    assert describe("Pong-v5", EnvironmentConfig(engine="envpool")).frame_stack == 4


def test_an_object_is_one_environment_and_is_not_closed():
    env = ScriptedEnv(2)
    vector = make(env, EnvironmentConfig())
    assert (vector.num_envs, vector.engine) == (1, "in-process")
    assert vector.reset(0)[0].tolist() == [[2, 0, 0, -1]]
    beside = make(env, EnvironmentConfig(), training=False)
    beside.reset(0)
    assert env.episode == 0
    assert describe(env, EnvironmentConfig()).name == "ScriptedEnv"


@pytest.mark.parametrize("in_text", [True, False])
def test_frame_stacks_are_left_to_the_consumer(in_text):
    def stacked():
        return FrameStackObservation(gymnasium.make("MountainCar-v0"), 3)

    source = "MountainCar-v0" if in_text else stacked
    config = EnvironmentConfig(num_envs=2, wrappers=("FrameStackObservation=3",) if in_text else ())
    vector = make(source, config)
    assert (vector.frame_stack, vector.layout.shape) == (3, (2,))
    assert describe(source, config).frame_stack == 3 and make_single(source, config).frame_stack == 3


def test_a_frame_stack_that_pads_with_zeros_stays():
    config = EnvironmentConfig(wrappers=("FrameStackObservation=stack_size:3,padding_type:zero",))
    vector = make("MountainCar-v0", config)
    assert (vector.frame_stack, vector.layout.shape) == (1, (6,))


def test_wrappers_of_the_reward_are_for_training():
    config = EnvironmentConfig(
        num_envs=1, wrappers=("ClipReward=min_reward:-0.5,max_reward:0.5", "TimeLimit=3")
    )
    for training, expected in ((True, -0.5), (False, -1.0)):
        vector = make("MountainCar-v0", config, training=training)
        vector.reset(0)
        steps = [vector.step(np.zeros(1, np.int64)) for _ in range(3)]
        assert steps[0].rewards.tolist() == [expected] and steps[-1].truncated.all()


def test_options_and_imports_reach_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_worlds.py").write_text(
        "import gymnasium\nfrom tests.environments.scripted import ScriptedEnv\n"
        "gymnasium.register('MyWorld-v0', ScriptedEnv)\n"
    )
    config = EnvironmentConfig(
        num_envs=2, import_modules=("my_worlds",), environment_options=("index=4",), num_processes=1
    )
    for engine in ("in-process", "processes"):
        vector = make("MyWorld-v0", EnvironmentConfig(**{**vars(config), "engine": engine}))
        assert vector.reset(0)[0][:, 0].tolist() == [4, 4]
        vector.close()
    assert make("my_worlds:MyWorld-v0", EnvironmentConfig(environment_options=("index=5",))).num_envs == 8


def test_a_single_environment_draws():
    single = make_single("CartPole-v1", EnvironmentConfig(), "rgb_array")
    observation, _ = single.env.reset(seed=0)
    assert single.encoder.encode(observation).shape == (4,)
    assert np.asarray(single.env.render()).shape == (400, 600, 3)
    single.env.close()
    with pytest.raises(QfleetError, match="cannot be drawn"):
        make_single(ScriptedEnv, EnvironmentConfig(), "rgb_array")


def test_a_single_atari_environment_looks_like_the_vector_engines():
    single = make_single("ALE/Breakout-v5", EnvironmentConfig(), "rgb_array")
    frame = single.encoder.encode(single.env.reset(seed=0)[0])
    vector = make("ALE/Breakout-v5", EnvironmentConfig(num_envs=1))
    frames, _ = vector.reset(0)
    assert single.frame_stack == vector.frame_stack == 4 and single.encoder.layout == vector.layout
    # The starts differ by their no-ops; the walls and the bricks are where they are to a grey level.
    assert (np.abs(frame.astype(int) - frames[0]) <= 1).mean() > 0.95
    assert np.asarray(single.env.render()).shape == (210, 160, 3)
    vector.close()
    single.env.close()


def test_time_limits_of_objects_are_described():
    assert describe(TimeLimit(ScriptedEnv(0), 6), EnvironmentConfig()).max_episode_steps == 6


def test_the_catalogue_lists_what_runs():
    entries = {entry.id: entry for entry in environments()}
    assert entries["CartPole-v1"].engine == "registered" and entries["CartPole-v1"].is_tuned
    assert entries["ALE/Pong-v5"].extra == "atari" and entries["LunarLander-v3"].extra == "box2d"
    assert "Pendulum-v1" not in entries and "CartPole-v0" not in entries
    for name in ("CartPole-v1", "Acrobot-v1", "Taxi-v4", "MinAtar/Seaquest-v1", "ALE/Pong-v5"):
        vector = make(name, EnvironmentConfig(num_envs=4))
        assert vector.engine == entries[name].engine
        vector.close()
