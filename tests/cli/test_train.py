"""Training from the command line, and everything a finished run can be asked for."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Call, finish, start

KEYS = {
    "run", "environment", "algorithm", "topology", "backend", "workers", "seed", "steps", "updates", "seconds",
    "steps_per_second", "updates_per_second", "stopped_by", "evaluation",
}  # fmt: skip


def test_json_is_one_object_and_all_that_is_printed(tmp_path: Path) -> None:
    done = finish(start(tmp_path, "train", "CartPole-v1", "--steps", 2000, "--json", "--seed", 7))
    assert done.code == 0, done
    summary = json.loads(done.out)
    assert done.out.count("\n") == 1 and summary.keys() >= KEYS
    assert summary["environment"] == "CartPole-v1" and summary["seed"] == 7 and summary["steps"] >= 2000
    assert summary["stopped_by"] == "steps" and summary["updates"] > 0
    assert {"episodes", "mean_return", "std_return"} <= summary["evaluation"].keys()
    assert json.loads((tmp_path / summary["run"] / "summary.json").read_text()) == summary
    assert "steps/s" in done.err and (tmp_path / summary["run"] / "report.html").is_file()


def test_the_ending_says_what_came_out_and_what_to_type_next(tmp_path: Path) -> None:
    done = finish(start(tmp_path, "train", "CartPole-v1", "--steps", 500, "--quiet", "--out", "here"))
    assert (done.code, done.err) == (0, "")
    returned, stopped, run, play, resume, report = (line.split(maxsplit=1) for line in done.out.splitlines())
    assert re.fullmatch(r"[\d.]+ ± [\d.]+ over 100 greedy episodes", returned[1])
    assert "all its steps are made" in stopped[1] and run == ["run", "here"]
    assert play == ["next", "qfleet play here"] and report == ["qfleet", "report here"]
    # What it says to type works.
    again = finish(start(tmp_path, *" ".join(resume).split()[1:], "--quiet"))
    assert again.code == 0 and "after 1,0" in again.out, again


def test_flags_reach_the_config_and_a_config_is_taken_again(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=50)\n"
    )
    flags = (
        "--import mine --wrappers TimeLimit=20 --no-double --hidden-sizes 16 8 --until-return=-1e9 --n_step 3"
    )
    done = call("train", "Mine-v0", *flags.split(), "--steps", 400, "--quiet", "--out", "first")
    assert done.code == 0, done
    config = json.loads(Path("first/config.json").read_text())
    assert config["environment"] == "Mine-v0" and config["engine"]["import_modules"] == ["mine"]
    assert config["algorithm"]["double"] is False and config["algorithm"]["hidden_sizes"] == [16, 8]
    assert config["run"]["until_return"] == -1e9 and config["algorithm"]["n_step"] == 3
    for source in ("first", "first/config.json"):
        out = source.replace("/", "-") + "-again"
        done = call("train", "--config", source, "--topology", "serial", "--seed", 5, "--quiet", "--out", out)
        assert done.code == 0, done
        again = json.loads(Path(out, "config.json").read_text())
        assert again["run"] == config["run"] | {"topology": "serial", "seed": 5}
        assert again["topology"] == {"block_steps": config["topology"]["block_steps"]}
        assert again["engine"] == config["engine"] and again["algorithm"] == config["algorithm"]


def test_a_warm_start_begins_from_another_runs_values(call: Call, trained: Path) -> None:
    done = call("train", "CartPole-v1", "--steps", 300, "--warm-start", trained, "--quiet", "--json")
    assert done.code == 0 and json.loads(done.out)["updates"] == 0, done


def test_a_sweep_trains_once_a_seed_and_reports_their_mean(call: Call) -> None:
    done = call(
        "train", "CartPole-v1", "--seeds", "0,2-3", "--steps", 300, "--json", "--quiet", "--out", "sweep"
    )
    assert done.code == 0, done
    result = json.loads(done.out)
    assert [run["seed"] for run in result["runs"]] == [0, 2, 3]
    means = [run["evaluation"]["mean_return"] for run in result["runs"]]
    assert result["mean_return"] == pytest.approx(sum(means) / 3)
    low, high = result["interval"]
    assert low < result["mean_return"] < high
    assert "3 seeds" in Path("sweep/report.html").read_text()
    assert sorted(path.name for path in Path("sweep").iterdir()) == [
        "report.html",
        "seed-0",
        "seed-2",
        "seed-3",
    ]
    assert call("report", "sweep", "--out", "all.html").out == "all.html\n"
    assert "3 seeds" in Path("all.html").read_text()


def test_a_sweep_for_people(call: Call) -> None:
    done = call("train", "CartPole-v1", "--seeds", "0-1", "--steps", 300, "--quiet")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["seed", "seed", "mean", "runs", "report"], done
    assert "95% interval" in lines[2] and Path(lines[4].split()[1]).is_file()


def test_resume_goes_on_to_a_new_total(call: Call, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert "has made all its 20" in call("resume", run).complaint
    assert "has made 20" in call("resume", run, "--steps", 100).complaint
    done = call("resume", run, "--steps", 2600, "--json", "--quiet")
    assert done.code == 0 and done.err == "", done
    summary = json.loads(done.out)
    assert 2600 <= summary["steps"] < 2700 and summary["updates"] >= 390
    assert json.loads((run / "config.json").read_text())["run"]["steps"] == 2600


def test_evaluate_repeats_the_summary_and_other_seeds_differ(call: Call, trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    same = json.loads(call("evaluate", trained, "--json").out)
    assert same == {"run": str(trained), **summary["evaluation"]}
    other = call("evaluate", trained, "--episodes", 7, "--seed", 5)
    assert re.match(r"return  [\d.]+ ± [\d.]+ over 7 greedy episodes", other.out), other


def test_report_lies_where_it_says(call: Call, trained: Path) -> None:
    assert call("report", trained, trained, "--out", "both.html").out == "both.html\n"
    assert "CartPole-v1" in Path("both.html").read_text()
