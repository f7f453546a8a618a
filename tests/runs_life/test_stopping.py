"""When a run ends, what it keeps, and with which episodes it is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qfleet
from qfleet.errors import QfleetError
from qfleet.evaluation import CONFIRMING, FINAL, PERIODIC, evaluation_seed
from qfleet.runs.checkpoints import CheckpointStore
from tests.runs_life.small_worlds import MatchEnv, SeedLogEnv
from tests.runs_life.tiny import TOPOLOGIES, train_tiny


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_steps(topology, tmp_path: Path) -> None:
    run = train_tiny(MatchEnv, tmp_path / "run", topology=topology, steps=1000)
    summary = run.summary
    assert (summary["stopped_by"], summary["steps"], summary["updates"]) == ("steps", 1000, 200)
    assert summary == qfleet.load_run(run.path, environment=MatchEnv).summary and summary["seconds"] > 0
    assert summary["evaluation"]["episodes"] == 3 and (run.path / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_episodes(topology, tmp_path: Path) -> None:
    run = train_tiny(MatchEnv, tmp_path / "run", topology=topology, episodes=100)
    # Six steps an episode, four environments: the limit is passed in the block that has the 100th.
    assert run.summary["stopped_by"] == "episodes" and 100 <= run.summary["episodes"] <= 108
    assert 600 <= run.summary["steps"] <= 640


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_until_return(topology, tmp_path: Path) -> None:
    """What every action gives is certain here, so any network passes a threshold it can reach."""
    run = train_tiny(MatchEnv, tmp_path / "run", topology=topology, until_return=-0.5, steps=3000)
    assert run.summary["stopped_by"] == "until_return" and 1100 <= run.summary["steps"] < 1140


def test_a_solved_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run = train_tiny(MatchEnv, tmp_path / "run", until_return=-0.5, steps=3000)
    again = qfleet.resume(run.path, environment=MatchEnv)
    assert again.summary["stopped_by"] == "until_return" and again.summary["steps"] == run.summary["steps"]
    settings = replace(run.problem.settings, run=replace(run.problem.settings.run, until_return=7.0))
    run.folder.write_config(replace(settings, objects=("environment",)).to_json())
    further = qfleet.resume(run.path, environment=MatchEnv)
    assert further.summary["stopped_by"] == "steps" and further.summary["steps"] >= 3000


def test_until_return_needs_confirmation(tmp_path: Path) -> None:
    """Returns are pure chance: one lucky episode passes, two hundred do not."""
    evaluations = []
    run = train_tiny(
        SeedLogEnv,
        tmp_path / "run",
        until_return=0.5,
        evaluate_every_steps=200,
        evaluation_episodes=1,
        final_episodes=200,
        steps=3000,
        on_status=lambda status: evaluations.append(status.evaluation.mean) if status.evaluation else None,
    )
    assert run.summary["stopped_by"] == "steps" and len(evaluations) == 15
    assert max(evaluations) > 0.5


def test_a_callback_and_its_statuses(tmp_path: Path) -> None:
    seen: list[qfleet.Status] = []

    def on_status(status: qfleet.Status) -> bool | None:
        seen.append(status)
        return False if status.steps >= 500 else None

    run = train_tiny(MatchEnv, tmp_path / "run", on_status=on_status)
    assert run.summary["stopped_by"] == "callback" and 500 <= run.summary["steps"] < 600
    steps = [status.steps for status in seen]
    assert steps == sorted(set(steps)) and steps[-1] == run.summary["steps"]
    assert (
        seen[-1].episodes == run.summary["episodes"] and seen[0].exploration_rate > seen[-1].exploration_rate
    )
    assert seen[-1].mean_return is not None and 0 <= seen[-1].mean_return <= 6


def test_evaluation_plays_episodes_that_neither_training_nor_another_purpose_saw(tmp_path: Path) -> None:
    SeedLogEnv.training.clear()
    SeedLogEnv.evaluation.clear()
    # The state of this environment cannot be saved, so training is seeded anew at every checkpoint.
    train_tiny(
        SeedLogEnv,
        tmp_path / "run",
        until_return=-100.0,
        evaluation_episodes=5,
        final_episodes=7,
        checkpoint_every_steps=100,
    )
    training, evaluation = SeedLogEnv.training, SeedLogEnv.evaluation
    assert len(training) >= 4 * 10
    assert len(evaluation) >= 5 + 7 + 7 and len(set(evaluation)) == len(evaluation)
    assert not training & set(evaluation)
    seeds = {evaluation_seed(5, purpose, n) for purpose in (PERIODIC, CONFIRMING, FINAL) for n in range(100)}
    assert len(seeds) == 300


def test_the_best_values_are_kept(tmp_path: Path) -> None:
    """The values returned are those that the best evaluation judged: played again, they do as well."""
    evaluations: list[tuple[float, int]] = []

    def on_status(status: qfleet.Status) -> None:
        if status.evaluation is not None:
            evaluations.append((status.evaluation.mean, status.steps))

    run = train_tiny(
        "CartPole-v1",
        tmp_path / "run",
        learning_rate=0.02,
        evaluate_every_steps=250,
        max_evaluation_steps=500,
        on_status=on_status,
    )
    means = [mean for mean, _ in evaluations]
    best = int(np.argmax(means))
    assert len(set(means)) > 2 and means[best] > means[-1]
    assert run.summary["best_step"] == evaluations[best][1]
    again = run.evaluate(2, seed=evaluation_seed(5, PERIODIC, best + 1))
    assert again.mean == means[best]
    newest = CheckpointStore(run.folder.checkpoints).load_newest()
    assert newest is not None and not np.array_equal(newest[1]["values"]["parameters"], run.values)
    assert np.array_equal(qfleet.load(run.path).values, run.values)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_warm_start_begins_from_another_runs_values(topology, tmp_path: Path) -> None:
    first = train_tiny(MatchEnv, tmp_path / "first", steps=1500)
    second = train_tiny(
        MatchEnv,
        tmp_path / "second",
        topology=topology,
        steps=500,
        learning_starts_steps=10_000,
        warm_start=str(first.path),
        seed=9,
    )
    assert second.summary["updates"] == 0 and second.values.tobytes() == first.values.tobytes()
    with pytest.raises(QfleetError, match="parameters, this network has"):
        train_tiny(MatchEnv, tmp_path / "third", hidden_sizes=(17,), warm_start=str(first.path))


def test_learning_happens(tmp_path: Path) -> None:
    """Chance gives 2 of 6."""
    run = train_tiny(
        MatchEnv,
        tmp_path / "run",
        steps=6000,
        learning_rate=5e-3,
        updates_per_step=0.5,
        evaluation_episodes=20,
        discount=0.5,
    )
    assert run.evaluate(50).mean >= 5.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replay_capacity": 10**13}, "--replay-capacity"),
        ({"replay_capacity": 33, "block_steps": 64}, "one block of steps"),
        ({"loss": "hubber"}, "loss is 'hubber'"),
        ({"topology": "parallel"}, "topology is 'parallel'"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"backend": "slurm"}, "backend is 'slurm'"),
        ({"network": "grid"}, "needs images"),
        ({"engine": "registered"}, "registered needs an id"),
        ({"learning_rat": 1}, "did you mean learning_rate"),
        ({"warm_start": "/nowhere"}, "/nowhere"),
        ({"steps": 0}, "steps is 0"),
        ({"workers": 2}, "--workers 2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(changes, words, tmp_path: Path) -> None:
    with pytest.raises(QfleetError, match=words) as raised:
        train_tiny(MatchEnv, tmp_path / "run", **changes)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
