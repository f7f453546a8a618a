"""The likely mistakes: one line that says what would work, exit code 2, nothing left behind."""

import json
import shutil
from pathlib import Path

import gymnasium
import pytest
from conftest import Call

import qfleet

MISTAKES = {
    "trian": "did you mean train?",
    "frobnicate": "known are train, race, resume",
    "train": "needs an ENVIRONMENT",
    "train Cartpoole-v1": "nearest are CartPole-v1",
    "train CartPole-v9": "CartPole-v1 works",
    "train CartPole-v1 Acrobot-v1": "'Acrobot-v1'",
    "train CartPole-v1 --stepz 5": "nearest are --steps",
    "train CartPole-v1 --learning 0.1": "--learning-rate",
    "train CartPole-v1 -s 5": "no flag -s",
    "train CartPole-v1 --steps": "--steps needs a value: a whole number",
    "train CartPole-v1 --steps --seed 3": "--steps needs a value",
    "train CartPole-v1 --steps many": "--steps many: it takes a whole number",
    "train CartPole-v1 --steps 1e5": "--steps 1e5: it takes a whole number",
    "train CartPole-v1 --steps 5 --steps 6": "given twice",
    "train CartPole-v1 --double --no-double": "given twice",
    "train CartPole-v1 --double=yes": "--no-double switches it off",
    "train CartPole-v1 --json=yes": "--json takes no value",
    "train CartPole-v1 --no-json": "no flag --no-json",
    "train CartPole-v1 --learning-rate fast": "it takes a number",
    "train CartPole-v1 --hidden-sizes 64 wide": "it takes whole numbers",
    "train CartPole-v1 --until-return soon": "it takes a number",
    "train CartPole-v1 --loss cubic": "one of huber, squared",
    "train CartPole-v1 --topology sreial": "one of serial, shared",
    "train CartPole-v1 --topology serial --stall-timeout-seconds 3": "belongs to --topology overlapped",
    "train CartPole-v1 --topology shared": "--topology shared does not work with --algorithm dqn",
    "train CartPole-v1 --temperature 2": "--temperature belongs to the algorithms of tables",
    "train CartPole-v1 --merge visits": "--merge belongs to --topology averaged",
    "train CartPole-v1 --until-error 0.1": "--until-error is for tables",
    "train CartPole-v1 --exact yes": "--exact is for tables",
    "train CartPole-v1 --backend processes": "with --backend processes work averaged, data-parallel",
    "train CartPole-v1 --algorithm q-learning": "--discretize 10 makes some",
    "train CartPole-v1 --algorithm quick": "--algorithm quick: it takes one of q-learning",
    "train CartPole-v1 --tilings 8": "--discretize 8 --tilings 8",
    "train CartPole-v1 --discretize 8 --bounds 1 0": "give a finite low",
    "train CartPole-v1 --discretize 8 --topology partitioned": "--algorithm q-learning in environments stepped",
    "train CartPole-v1 --discretize 8 --tilings 8 --algorithm tree-backup": "does not work with tile coding",
    "train CartPole-v1 --discretize 8 --topology shared --backend threads": "Python steps one thread at a time",
    "train CartPole-v1 --discretize 8 --stepping compiled": "discretize and stepping compiled",
    "train GridWorld-4 --topology overlapped": "--topology overlapped does not work with --algorithm q-learning",
    "train GridWorld-4 --num-envs 3": "--num-envs belongs to --algorithm dqn",
    "train GridWorld-4 --workers 2": "--topology serial has 1 worker; shared, averaged",
    "train GridWorld-4 --backend processes": "leave --backend out",
    "train GridWorld-4 --device cpu": "--device cpu is for networks",
    "train GridWorld-4 --sync-growth 2": "--sync-growth belongs to --topology averaged",
    "train GridWorld-4 --n-step 3": "n_step belongs to the algorithm tree-backup",
    "train GridWorld-4 --exact no --until-error 0.1": "--until-error needs the exact solution",
    "train GridWorld-4 --until-change -1": "until_change is -1",
    "train GridWorld-4 --topology partitioned --cut owners": "--cut owners and --owners FILE",
    "export nowhere": "needs --out",
    "export nowhere --out values.csv": "no such folder",
    "train CartPole-v1 --batch-size 0": "batch_size is 0",
    "train CartPole-v1 --steps 0": "steps is 0",
    "train CartPole-v1 --workers 2": "--workers 2",
    "train CartPole-v1 --network nature": "--network nature needs images",
    "train CartPole-v1 --engine envpool --wrappers TimeLimit=9": "cannot wrap",
    "train CartPole-v1 --wrappers TimeLimt=9": "TimeLimit",
    "train CartPole-v1 --import no_such_module": "--import no_such_module",
    "train CartPole-v1 --seeds 3-": "--seeds 3-",
    "train CartPole-v1 --seeds 5-3": "--seeds 5-3",
    "train CartPole-v1 --seeds 1,1": "every seed once",
    "train CartPole-v1 --seeds 0-1 --seed 3": "--seeds alone",
    "train CartPole-v1 --seeds 0-1 --batch-size 200000": "a minibatch must fit",
    "train CartPole-v1 --warm-start nowhere": "nowhere: no such folder",
    "train CartPole-v1 --config nowhere.json": "no such file",
    "train Pendulum-v1": "Discrete",
    "train CartPole-v1 --out /dev/null/run": "/dev/null/run",
    "resume": "needs a RUN",
    "resume nowhere": "no such folder",
    "resume .": "not a run's folder",
    "evaluate nowhere": "no such folder",
    "play nowhere": "no such folder",
    "report": "needs a RUN",
    "report nowhere": "no such folder",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_one_line_says_what_would_work(call: Call, command: str) -> None:
    assert MISTAKES[command] in call(*command.split()).complaint
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not json", "is not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "'environment' is missing"),
        ({"run": {"stepz": 3}}, "run has no setting 'stepz'"),
        ({"ran": {}}, "unknown section 'ran'"),
        ({"run": {"steps": "many"}}, "run.steps is 'many'"),
        ({"run": {"steps": True}}, "run.steps is True"),
        ({"algorithm": {"hidden_sizes": ["wide"]}}, "algorithm.hidden_sizes"),
        ({"algorithm": {"loss": "cubic"}}, "'huber'"),
        ({"topology": {"sync": 3}}, "topology has no setting 'sync'"),
        ({"objects": ["environment"]}, None),
        ({"objects": ["network"]}, "made from Python objects (network)"),
        ({"objects": 3}, "objects is 3"),
    ],
)
def test_configs_that_cannot_be(call: Call, content: str | dict, expected: str | None) -> None:
    text = content if isinstance(content, str) else json.dumps({"environment": "CartPole-v1", **content})
    Path("config.json").write_text(text)
    if expected is None:
        assert "made from Python objects" in call("train", "--config", "config.json").complaint
    else:
        assert expected in call("train", "--config", "config.json").complaint
    assert [path.name for path in Path().iterdir()] == ["config.json"]


def test_a_folder_in_use_is_left_alone(call: Call, trained: Path) -> None:
    before = sorted(path.name for path in trained.iterdir())
    complaint = call("train", "CartPole-v1", "--out", trained).complaint
    assert "is not empty" in complaint and f"qfleet resume {trained}" in complaint
    assert sorted(path.name for path in trained.iterdir()) == before


@pytest.mark.parametrize("flags", ["--episodes 0", "--seed -3", "--video out.gif", "--video nowhere/out.mp4"])
def test_play_refuses(call: Call, trained: Path, flags: str) -> None:
    assert flags.split()[0] in call("play", trained, *flags.split()).complaint


def test_without_a_display_play_says_how_to_go_without(call: Call, trained: Path) -> None:
    assert call("play", trained).complaint == (
        f"there is no display to open a window on; qfleet play {trained} --video out.mp4 works"
    )


def test_evaluate_refuses_no_episodes(call: Call, trained: Path) -> None:
    assert "--episodes is 0" in call("evaluate", trained, "--episodes", 0).complaint


def test_a_run_from_python_objects_says_how_to_go_on(call: Call) -> None:
    run = qfleet.train(
        lambda: gymnasium.make("CartPole-v1"), out="run", steps=200, num_envs=1, final_episodes=1
    )
    assert run.path == Path("run")
    for command in ("resume", "evaluate", "play"):
        assert "qfleet.resume('run', environment=...)" in call(command, "run").complaint
    assert qfleet.load_run("run", environment=lambda: gymnasium.make("CartPole-v1")).summary == run.summary


def test_an_error_before_the_first_step_leaves_nothing_behind(call: Call) -> None:
    Path("broken.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n\n"
        "class Broken(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        observation, _, *rest = super().step(action)\n"
        "        return observation, float('nan'), *rest\n\n"
        "gymnasium.register('Broken-v0', Broken)\n"
    )
    assert (
        "reward"
        in call("train", "Broken-v0", "--import", "broken", "--engine", "in-process", "--quiet").complaint
    )
    assert not Path("runs").exists()
    sweep = call("train", "Broken-v0", "--import", "broken", "--seeds", "0-1", "--out", "sweep", "--quiet")
    assert "reward" in sweep.complaint and not Path("sweep").exists()


def test_a_world_that_cannot_be_compiled_is_said_before_anything_starts(call: Call) -> None:
    Path("mine.py").write_text(
        "import qfleet\n\n\n"
        "def step(parameters, state, action, random):\n"
        "    return state, parameters.reward, False\n\n\n"
        "def reset(parameters, random):\n"
        "    return 0\n\n\n"
        "GRID = qfleet.World(step, reset, num_states=9, num_actions=2, name='Mine')\n"
    )
    told = call("train", "mine:GRID", "--topology", "partitioned", "--workers", "2", "--out", "run").complaint
    assert "Mine: step (step) cannot be compiled: Unknown attribute 'reward'" in told and "line 5" in told
    assert not Path("run").exists()


def test_damage_is_reported_even_if_quiet(call: Call, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    newest = sorted((run / "checkpoints").glob("0*"))[-1]
    (newest / "arrays.safetensors").write_bytes(b"")
    done = call("resume", run, "--steps", 2200, "--quiet", "--json")
    assert done.code == 0 and newest.name in done.err, done
    assert json.loads(done.out)["steps"] >= 2200
