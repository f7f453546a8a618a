"""Serial and overlapped, step by step: who acts with which parameters, who learns from what, and how much."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest

from qfleet.backends.threads import ThreadFleet
from qfleet.deep.actor import Actor
from qfleet.deep.compiled.learner import CompiledLearner
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.networks import decide
from qfleet.environments import EnvironmentConfig, make
from qfleet.errors import FleetError, QfleetError
from qfleet.replay.replay import Replay
from qfleet.topologies.one_learner import OneLearner, Team
from qfleet.topologies.overlapped import Overlapped, OverlappedConfig
from qfleet.topologies.serial import Serial, SerialConfig
from tests.environments.scripted import ScriptedEnv

BLOCK, NUM_ENVS, STARTS, PER_STEP = 24, 3, 30, 0.5
CONFIG = DQNConfig(
    hidden_sizes=(8,),
    batch_size=8,
    replay_capacity=300,
    learning_starts_steps=STARTS,
    updates_per_step=PER_STEP,
    target_update_every_updates=10,
    exploration_steps=200,
    n_step=2,
)


class WatchedLearner(CompiledLearner):  # pyright: ignore[reportGeneralTypeIssues]
    """The real learner, which also notes what it is asked and when: (transitions in view, updates before, due)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[tuple[int, int, int, float]] = []
        self.threads: set[str] = set()

    def learn(self, view, num_updates: int, importance_exponent: float) -> None:
        self.asked.append((view.end - view.first, self.num_updates, num_updates, importance_exponent))
        self.threads.add(threading.current_thread().name)
        super().learn(view, num_updates, importance_exponent)


@dataclass
class Setup:
    topology: OneLearner
    learner: WatchedLearner
    replay: Replay
    fleet: ThreadFleet

    def close(self) -> None:
        self.topology.close()
        self.fleet.close()


class SeedlessEnv(ScriptedEnv):
    """The scripted environment of index 0, whatever it is seeded with."""

    def __init__(self) -> None:
        super().__init__(index=0)


def set_up(
    kind: str, max_steps: int = 300, config: DQNConfig = CONFIG, environment: Any = SeedlessEnv
) -> Setup:
    engine = EnvironmentConfig(num_envs=NUM_ENVS, engine="in-process")
    probe = make(environment, engine)
    layout, num_actions = probe.layout, probe.num_actions
    probe.close()
    learner = WatchedLearner(config, decide(config, layout, 1, num_actions), 0, 4)
    replay = Replay(
        config,
        layout,
        frame_stack=1,
        num_mask_actions=0,
        num_envs=NUM_ENVS,
        n_step=config.n_step,
        max_steps_per_block=BLOCK // NUM_ENVS,
    )

    def make_actor() -> Actor:
        vector = make(environment, engine)
        return Actor(vector, learner.policy(), config, num_mask_actions=0, seed=4, block_steps=BLOCK)

    fleet = ThreadFleet()
    team = Team(config, learner, replay, make_actor, fleet, max_steps)
    topology = Serial(team) if kind == "serial" else Overlapped(team, OverlappedConfig(block_steps=BLOCK))
    return Setup(topology, learner, replay, fleet)


def due(steps: int) -> int:
    return int(max(0, steps - STARTS) * PER_STEP)


def test_serial_learns_from_all_it_has_and_acts_with_the_newest_parameters() -> None:
    setup = set_up("serial")
    for number, gathered in enumerate(setup.topology.blocks(), 1):
        steps = min(BLOCK * number, 300)
        assert setup.topology.num_steps == steps
        assert gathered.version == due(steps - gathered.num_steps)
        assert setup.learner.num_updates == due(steps)
        if setup.learner.asked:
            assert setup.learner.asked[-1][0] == len(setup.replay)
        assert gathered.staleness(setup.learner.num_updates) == due(steps) - gathered.version
    assert setup.topology.num_steps == 300 and setup.learner.num_updates == due(300) == 135
    setup.close()


def test_overlapped_is_one_block_behind_on_both_sides() -> None:
    setup = set_up("overlapped")
    sizes, asked_before = [0], 0
    for number, gathered in enumerate(setup.topology.blocks(), 1):
        steps, at_start = min(BLOCK * number, 300), BLOCK * (number - 1)
        assert gathered.num_steps == steps - at_start
        # Acted with the parameters from before the updates of this block, which are those owed for the steps before it,
        assert gathered.version == due(max(0, at_start - BLOCK))
        # and learned from the replay as it stood when the block began.
        asked = setup.learner.asked[asked_before:]
        if due(at_start) > gathered.version:
            assert asked[0][:3] == (sizes[-1], gathered.version, due(at_start) - gathered.version)
        if steps == 300:  # the updates owed for the last block come after it
            assert asked[-1][:3] == (len(setup.replay), due(at_start), due(300) - due(at_start))
        else:
            assert setup.learner.num_updates == due(at_start)
        asked_before = len(setup.learner.asked)
        sizes.append(len(setup.replay))
    assert setup.topology.num_steps == 300 and setup.learner.num_updates == due(300) == 135
    assert setup.learner.threads == {threading.current_thread().name}
    setup.close()


@pytest.mark.parametrize("kind", ["serial", "overlapped"])
def test_the_importance_exponent_grows_to_one(kind: str) -> None:
    setup = set_up(kind, config=replace(CONFIG, priority_exponent=0.5, importance_exponent=0.4))
    for _ in setup.topology.blocks():
        pass
    exponents = [asked[3] for asked in setup.learner.asked]
    assert exponents == sorted(exponents) and 0.4 < exponents[0] < 0.6
    assert exponents[-1] == 1
    setup.close()


@pytest.mark.parametrize("max_steps", [1, BLOCK - 1, BLOCK, 100, 301])
@pytest.mark.parametrize("kind", ["serial", "overlapped"])
def test_ends_with_the_first_vector_step_that_reaches_the_limit(kind: str, max_steps: int) -> None:
    setup = set_up(kind, max_steps)
    steps = sum(gathered.num_steps for gathered in setup.topology.blocks())
    assert steps == setup.topology.num_steps == -(-max_steps // NUM_ENVS) * NUM_ENVS
    assert setup.learner.num_updates == due(steps)
    setup.close()


def final_state(kind: str, environment: str = "CartPole-v1") -> tuple[list[bytes], list[float]]:
    config = replace(CONFIG, priority_exponent=0.6, learning_rate=5e-3, exploration_final=0.1)
    setup = set_up(kind, 3000, config, environment)
    returns = [value for gathered in setup.topology.blocks() for value in gathered.returns]
    arrays = [*setup.learner.save_state().values(), setup.replay.tree]
    arrays += [
        column for ring in (setup.replay.frames, setup.replay.transitions) for column in ring.columns.values()
    ]
    setup.close()
    return [array.tobytes() for array in arrays], returns


@pytest.mark.parametrize("kind", ["serial", "overlapped"])
def test_the_same_seed_gives_the_same_bits_whatever_else_the_machine_does(kind: str) -> None:
    expected = final_state(kind)
    assert len(expected[1]) > 20
    stop = threading.Event()
    busy = [threading.Thread(target=spin, args=(stop,)) for _ in range(3)]
    for thread in busy:
        thread.start()
    try:
        assert final_state(kind) == expected
    finally:
        stop.set()
        for thread in busy:
            thread.join()


def spin(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(1000))


class MeetingEnv(ScriptedEnv):
    """Its 25th step, the fourth block's first, ends only when the updates of that block have begun."""

    learning = threading.Event()

    def __init__(self) -> None:
        super().__init__(index=0)
        self.num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 25:
            assert self.learning.wait(10), "acting and learning do not overlap"
        return super().step(action)


def test_overlapped_learns_while_it_acts() -> None:
    setup = set_up("overlapped", environment=MeetingEnv)
    learn = setup.learner.learn

    def learn_and_meet(view, num_updates: int, importance_exponent: float) -> None:
        if setup.learner.num_updates == due(2 * BLOCK):
            MeetingEnv.learning.set()
        learn(view, num_updates, importance_exponent)

    setup.learner.learn = learn_and_meet
    assert sum(gathered.num_steps for gathered in setup.topology.blocks()) == 300
    setup.close()


class FailingEnv(ScriptedEnv):
    """Raises, or hangs, at its 40th step."""

    release = threading.Event()

    def __init__(self) -> None:
        super().__init__(index=0)
        self.num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 40:
            self.fail()
        return super().step(action)

    def fail(self) -> None:
        raise RuntimeError("the simulator broke")


class HangingEnv(FailingEnv):
    def fail(self) -> None:
        self.release.wait(20)


@pytest.mark.parametrize("kind", ["serial", "overlapped"])
def test_an_environments_error_comes_out_as_it_is(kind: str) -> None:
    setup = set_up(kind, environment=FailingEnv)
    with pytest.raises(RuntimeError, match="the simulator broke") as raised:
        for _ in setup.topology.blocks():
            pass
    assert any(entry.name == "fail" for entry in raised.traceback)
    setup.close()


def test_a_hanging_environment_ends_the_run_with_the_actors_name() -> None:
    setup = set_up("overlapped", environment=HangingEnv)
    setup.topology._config = OverlappedConfig(block_steps=BLOCK, stall_timeout_seconds=0.2)  # type: ignore[attr-defined]
    with pytest.raises(FleetError, match="the actor has not finished gather within"):
        for _ in setup.topology.blocks():
            pass
    HangingEnv.release.set()
    setup.close()


def test_wrong_settings_are_named() -> None:
    with pytest.raises(QfleetError, match="block_steps is 0"):
        SerialConfig(block_steps=0)
    with pytest.raises(QfleetError, match="block_steps is 0"):
        OverlappedConfig(block_steps=0)
    for seconds in (0.0, float("nan")):
        with pytest.raises(QfleetError, match="stall_timeout_seconds"):
            OverlappedConfig(stall_timeout_seconds=seconds)


def test_the_actors_older_parameters_make_a_difference() -> None:
    assert final_state("serial")[1] != final_state("overlapped")[1]
