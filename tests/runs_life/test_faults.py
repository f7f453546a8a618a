"""Environments that go wrong, a user's mistakes, a full disk: named, without a hang, the values sound."""

import functools
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import qfleet
from qfleet.deep.parameters import parameters_of
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.run import read_values
from qfleet.runs.checkpoints import CheckpointStore
from qfleet.runs.folder import RunFolder
from tests.runs.test_full_disk import tiny_disk  # noqa: F401
from tests.runs_life.small_worlds import FaultyEnv, LateMaskEnv, MatchEnv
from tests.runs_life.tiny import TOPOLOGIES, train_tiny


def faulty(fault: str):
    def make() -> FaultyEnv:
        return FaultyEnv(fault)

    return make


@pytest.fixture(autouse=True)
def count_environments_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers the environments from 0 in the order in which a vector environment makes them."""
    from qfleet import assembly, network_members

    make = assembly.make

    @functools.wraps(make)
    def counted(*arguments, **options):
        FaultyEnv.num_made = 0 if options.get("training", True) else 1000
        return make(*arguments, **options)

    for module in (assembly, network_members):
        monkeypatch.setattr(module, "make", counted)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    ("fault", "what"), [("nan", "reward"), ("infinite", "reward"), ("observation", "observation")]
)
def test_what_is_not_finite_is_named_with_environment_and_step(fault, what, topology, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(
        NonFiniteError, match=f"the {what} of environment 2 at step 7 of its episode"
    ) as raised:
        train_tiny(faulty(fault), tmp_path / "run", topology=topology, engine="in-process")
    assert "\n" not in str(raised.value)
    parameters = parameters_of(read_values(RunFolder.open(tmp_path / "run")))
    assert parameters.version > 0 and np.isfinite(parameters.vector).all()
    assert threading.active_count() == before


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_an_exception_in_an_environment_comes_out_with_its_traceback(topology, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="divided by zero") as raised:
        train_tiny(faulty("exception"), tmp_path / "run", topology=topology, engine="in-process")
    assert Path(raised.traceback[-1].path).name == "small_worlds.py"
    assert threading.active_count() == before
    with RunFolder.open(tmp_path / "run").lock():  # nothing holds it any more
        pass


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_masks_that_come_too_late_are_named(topology, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match="action_mask"):
        train_tiny(LateMaskEnv, tmp_path / "run", topology=topology)


def test_rewards_beyond_all_measure_end_the_run_with_sound_values(tmp_path: Path) -> None:
    class Exploding(MatchEnv):
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, (reward + 1) * 1e38, terminated, truncated, info

    with pytest.raises(NonFiniteError, match="is not finite; the values are as before"):
        train_tiny(
            Exploding, tmp_path / "run", loss="squared", max_gradient_norm=0.0, checkpoint_every_steps=100
        )
    newest = CheckpointStore(tmp_path / "run/checkpoints").load_newest()
    assert newest is not None and np.isfinite(newest[1]["values"]["parameters"]).all()


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_full_disk_stops_no_training_and_is_told_at_the_end(
    topology,
    tiny_disk: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[int] = []

    def fill_the_disk(status: qfleet.Status) -> None:
        steps.append(status.steps)
        filler = tiny_disk / "filler"
        if status.steps > 1000 and not filler.exists():
            filler.write_bytes(bytes(shutil.disk_usage(tiny_disk).free))

    with pytest.raises(QfleetError, match="could not be written") as raised:
        qfleet.train(
            "CartPole-v1",
            out=tiny_disk / "run",
            quiet=False,
            on_status=fill_the_disk,
            topology=topology,
            steps=3000,
            num_envs=4,
            hidden_sizes=(16,),
            replay_capacity=1000,
            checkpoint_every_steps=700,
            until_return=float("inf"),
            evaluation_episodes=2,
        )
    assert "\n" not in str(raised.value) and steps[-1] > 2900
    lines = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert sum("training goes on" in line for line in lines) == 3  # at 1400, 2100 and 2800
    (tiny_disk / "filler").unlink()
    run = qfleet.resume(tiny_disk / "run")
    assert run.summary["stopped_by"] == "steps" and 3000 <= run.summary["steps"] < 3004
